//! The API server of Kubernetes, as far as pods are created, read and deleted.
//!
//! A token may do what the role of its service account allows: [`BROKER`] may get pods, except in the namespace `forbidden`; [`ADMIN`]
//! may do everything. The name of a pod selects a fault of [`crate::fault`].

use std::collections::BTreeMap;
use std::sync::Mutex;

use hyper::Method;
use serde_json::{Value, json};

use crate::http::{self, Request, Response};

/// The token of a broker.
pub(crate) const BROKER: &str = "standin-kubernetes-broker";
/// The token of an operator.
pub(crate) const ADMIN: &str = "standin-kubernetes-admin";

/// The service account of a pod that names none.
const DEFAULT: &str = "default";

/// All pods, by namespace and name.
#[derive(Default)]
pub(crate) struct Kubernetes(Mutex<BTreeMap<(String, String), Value>>);

impl Kubernetes {
    pub(crate) fn answer(&self, request: &Request) -> Response {
        let is_admin = match request.bearer() {
            Some(ADMIN) => true,
            Some(BROKER) => false,
            _ => return error(401, "Unauthorized"),
        };
        let segments = request.segments();
        let ["api", "v1", "namespaces", namespace, "pods", name @ ..] = segments.as_slice() else {
            return error(404, "the server could not find the requested resource");
        };
        if !is_admin && (request.method != Method::GET || name.is_empty() || *namespace == "forbidden") {
            return error(403, "pods is forbidden: User cannot do this");
        }
        let key = |name: &str| ((*namespace).to_owned(), name.to_owned());
        let mut pods = self.0.lock().unwrap();
        match (&request.method, name) {
            (&Method::POST, []) => {
                let pod = created(namespace, request.json());
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                pods.insert(key(name), pod.clone());
                http::json(201, &pod)
            }
            (&Method::GET, [name]) => pods.get(&key(name)).map_or_else(|| not_found(name), |pod| http::json(200, pod)),
            (&Method::DELETE, [name]) => {
                pods.remove(&key(name)).map_or_else(|| not_found(name), |pod| http::json(200, &pod))
            }
            _ => error(405, "the server does not allow this method on the requested resource"),
        }
    }

    pub(crate) fn reset(&self) {
        self.0.lock().unwrap().clear();
    }
}

/// The name that can select a fault.
pub(crate) fn name_asked_for(request: &Request) -> Option<String> {
    match (&request.method, request.segments().as_slice()) {
        (&Method::GET, ["api", "v1", "namespaces", _, "pods", name]) => Some((*name).to_owned()),
        _ => None,
    }
}

/// A pod with what the API server adds to it: the uid, and the service account if it names none.
fn created(namespace: &str, mut pod: Value) -> Value {
    let uid = format!("{:08x}-0000-4000-8000-{:012x}", fastrand::u32(..), fastrand::u64(..) >> 16);
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["namespace"] = namespace.into();
    pod["metadata"]["uid"] = uid.into();
    if pod["spec"]["serviceAccountName"].is_null() {
        pod["spec"]["serviceAccountName"] = DEFAULT.into();
    }
    pod["status"] = json!({ "phase": "Pending" });
    pod
}

fn not_found(name: &str) -> Response {
    error(404, &format!("pods \"{name}\" not found"))
}

/// An error in the form of the API.
pub(crate) fn error(status: u16, message: &str) -> Response {
    let reason = match status {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        _ => "",
    };
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": status,
    });
    http::json(status, &body)
}
