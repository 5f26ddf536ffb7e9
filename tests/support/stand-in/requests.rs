//! The log of all requests, so that a test can count what its subject asked.

use std::sync::Mutex;

use hyper::header::{AUTHORIZATION, USER_AGENT};
use hyper::{Method, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::http::Request;
use crate::services::Service;

/// Every request since the start or the last reset, oldest first.
#[derive(Default)]
pub(crate) struct Requests {
    entries: Mutex<Vec<Entry>>,
}

/// One request. It holds no token, only whether there was one.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) time: Timestamp,
    pub(crate) service: Service,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) connection: u64,
    pub(crate) authorization: bool,
    pub(crate) user_agent: String,
    /// Absent until the response is known, and for ever if there is none.
    pub(crate) status: Option<StatusCode>,
}

impl Requests {
    /// Adds a request that has just arrived and returns its number.
    pub(crate) fn record(&self, service: Service, request: &Request) -> usize {
        let mut entries = self.entries.lock().unwrap();
        entries.push(Entry {
            time: Timestamp::now(),
            service,
            method: request.method.clone(),
            path: request.path.clone(),
            query: request.query.clone(),
            connection: request.connection,
            authorization: request.headers.contains_key(AUTHORIZATION),
            user_agent: request.header(USER_AGENT).unwrap_or_default().to_owned(),
            status: None,
        });
        entries.len() - 1
    }

    pub(crate) fn finish(&self, number: usize, status: StatusCode) {
        if let Some(entry) = self.entries.lock().unwrap().get_mut(number) {
            entry.status = Some(status);
        }
    }

    /// The entries of one service, newest first.
    pub(crate) fn of(&self, service: Service) -> Vec<Entry> {
        let entries = self.entries.lock().unwrap();
        entries.iter().rev().filter(|entry| entry.service == service).cloned().collect()
    }

    pub(crate) fn reset(&self) {
        self.entries.lock().unwrap().clear();
    }

    pub(crate) fn to_json(&self) -> Value {
        let entries = self.entries.lock().unwrap();
        entries
            .iter()
            .map(|entry| {
                json!({
                    "time": entry.time.to_string(),
                    "service": format!("{:?}", entry.service).to_lowercase(),
                    "method": entry.method.as_str(),
                    "path": entry.path,
                    "query": entry.query,
                    "connection": entry.connection,
                    "authorization": entry.authorization,
                    "user_agent": entry.user_agent,
                    "status": entry.status.map(|status| status.as_u16()),
                })
            })
            .collect()
    }
}
