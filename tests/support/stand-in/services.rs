//! The services with their state, and what is common to all of them: the log, the delay and the faults.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::aws_kms;
use crate::connect;
use crate::connect::Connect;
use crate::fault::{self, Faults, Write};
use crate::google::Refusal;
use crate::http::{self, Request, Reset, Response};
use crate::identity::issuer::Issuers;
use crate::identity::{self, Identity};
use crate::kms::{self, Kms};
use crate::kubernetes::{self, Kubernetes};
use crate::requests::Requests;
use crate::tls::Renewal;

/// A service that is stood in for; each listens on an address of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Connect,
    Kms,
    Identity,
    Metadata,
    Issuers,
    Kubernetes,
}

/// All services. They share one log, which shows the order of all requests.
#[derive(Default)]
pub(crate) struct StandIn {
    pub(crate) latency: Duration,
    /// Whether Cloud KMS asks for a token.
    pub(crate) kms_auth: bool,
    /// The fault of the metadata server, whose requests have no name that could select one.
    pub(crate) metadata_fault: Option<String>,
    pub(crate) connect: Connect,
    pub(crate) kms: Kms,
    pub(crate) identity: Identity,
    pub(crate) issuers: Issuers,
    pub(crate) kubernetes: Kubernetes,
    pub(crate) requests: Requests,
    pub(crate) faults: Faults,
    /// Of the certificate of Connect.
    pub(crate) renewal: Mutex<Renewal>,
}

impl StandIn {
    /// The response to one request, or `Err` if the connection is to be reset instead.
    pub(crate) async fn respond(&self, service: Service, request: &Request) -> Result<Response, Reset> {
        if let Some(response) = self.administer(request) {
            return Ok(response);
        }
        let entry = self.requests.record(service, request);
        if !self.latency.is_zero() {
            // A sleep of tokio's ends with a millisecond of its clock, up to one and a half too late.
            let latency = self.latency;
            spawn_blocking(move || thread::sleep(latency)).await.unwrap();
        }
        let response = match self.name_asked_for(service, request) {
            Some(name) => self.faults.serve(service, &name, request).await?,
            None => None,
        };
        let mut response = response.unwrap_or_else(|| self.answer(service, request));
        if service == Service::Connect && response.status().is_success() && request.method != Method::GET {
            match self.connect.title_written(request).as_deref().and_then(Write::parse) {
                Some(Write::Late(delay)) => tokio::time::sleep(delay).await,
                Some(Write::Fails(status)) => response = service.error(status, "Something went wrong"),
                _ => {}
            }
        }
        self.requests.finish(entry, response.status());
        Ok(response)
    }

    /// Serves the paths that are not of any service but of the stand-in itself.
    fn administer(&self, request: &Request) -> Option<Response> {
        match (request.method.as_str(), request.path.strip_prefix("/stand-in/")?) {
            ("GET", "requests") => Some(http::json(200, &self.requests.to_json())),
            ("GET", "hits") => Some(http::json(200, &json!({ "hits": self.faults.hits() }))),
            ("POST", "reset") => {
                self.requests.reset();
                self.faults.reset();
                self.connect.reset();
                self.kms.reset();
                self.identity.reset();
                self.issuers.reset();
                self.kubernetes.reset();
                Some(http::empty(204))
            }
            ("POST", "authority") => Some(http::json(200, &json!({ "authority": self.renewal().prepare() }))),
            ("POST", "certificate") => {
                self.renewal().renew();
                Some(http::empty(204))
            }
            (_, fault::TRAP) => Some(self.faults.hit()),
            _ => Some(self.issuers.administer(request)),
        }
    }

    pub(crate) fn renewal(&self) -> MutexGuard<'_, Renewal> {
        self.renewal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name in the request that can ask for a fault.
    fn name_asked_for(&self, service: Service, request: &Request) -> Option<String> {
        match service {
            Service::Connect => self.connect.name_asked_for(request),
            Service::Kms => kms::name_asked_for(request),
            Service::Identity => identity::name_asked_for(request),
            Service::Metadata => self.metadata_fault.clone(),
            Service::Issuers => self.issuers.fault(request),
            Service::Kubernetes => kubernetes::name_asked_for(request),
        }
    }

    fn answer(&self, service: Service, request: &Request) -> Response {
        match service {
            Service::Connect => self.connect.answer(request, &self.requests),
            Service::Kms if aws_kms::is_for(request) => aws_kms::answer(request),
            Service::Kms => match self.identity.check(request) {
                Err(refusal) if self.kms_auth => refusal.into(),
                _ => self.kms.answer(request),
            },
            Service::Identity => self.identity.answer(request, &self.issuers),
            Service::Metadata => self.identity.answer_metadata(request, self.metadata_fault.as_deref()),
            Service::Issuers => self.issuers.answer(request),
            Service::Kubernetes => self.kubernetes.answer(request),
        }
    }
}

impl Service {
    /// An error in the form in which this service reports one.
    pub(crate) fn error(self, status: u16, message: &str) -> Response {
        match self {
            Service::Connect => connect::error(status, message).into(),
            Service::Kms => Refusal::new(status, message).into(),
            Service::Identity => identity::error(status, "server_error", message),
            Service::Kubernetes => kubernetes::error(status, message),
            Service::Metadata | Service::Issuers => http::content(status, "text/html", message),
        }
    }
}
