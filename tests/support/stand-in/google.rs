//! Errors in the form of Google's APIs (`google.rpc.Status` in JSON).

use serde_json::{Value, json};

use crate::http::{self, Response};

/// A refused request.
pub(crate) struct Refusal {
    status: u16,
    name: &'static str,
    message: String,
    details: Vec<Value>,
}

impl Refusal {
    /// A refusal with the default name for the HTTP status.
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Refusal {
        let name = match status {
            400 => "INVALID_ARGUMENT",
            401 => "UNAUTHENTICATED",
            403 => "PERMISSION_DENIED",
            404 => "NOT_FOUND",
            409 => "ABORTED",
            429 => "RESOURCE_EXHAUSTED",
            500 => "INTERNAL",
            501 => "UNIMPLEMENTED",
            503 => "UNAVAILABLE",
            504 => "DEADLINE_EXCEEDED",
            _ => "UNKNOWN",
        };
        Refusal { status, name, message: message.into(), details: Vec::new() }
    }

    /// No such method or resource name in this API.
    pub(crate) fn unknown_path() -> Refusal {
        Refusal::new(404, "Method not found.")
    }

    /// The caller lacks this permission on this resource.
    pub(crate) fn denied(service: &str, permission: &str, resource: &str) -> Refusal {
        let message = format!("Permission '{permission}' denied on resource '{resource}' (or it may not exist).");
        Refusal::new(403, message).detail(json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": "IAM_PERMISSION_DENIED",
            "domain": service,
            "metadata": { "permission": permission, "resource": resource },
        }))
    }

    /// The key version is not in the state `ENABLED`.
    pub(crate) fn not_enabled(version: &str, state: &str) -> Refusal {
        let message = format!("{version} is not enabled, current state is: {state}.");
        let violation = json!({ "type": format!("KEY_{state}"), "subject": version });
        let refusal = Refusal::new(400, message).detail(json!({
            "@type": "type.googleapis.com/google.rpc.PreconditionFailure",
            "violations": [violation],
        }));
        Refusal { name: "FAILED_PRECONDITION", ..refusal }
    }

    /// An error of Google's API infrastructure, with this reason.
    pub(crate) fn with_reason(status: u16, reason: &str, message: &str) -> Refusal {
        Refusal::new(status, message).detail(json!({
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": "googleapis.com",
            "metadata": { "service": "cloudkms.googleapis.com", "consumer": "projects/123456" },
        }))
    }

    /// The same refusal under another name.
    pub(crate) fn named(self, name: &'static str) -> Refusal {
        Refusal { name, ..self }
    }

    fn detail(mut self, detail: Value) -> Refusal {
        self.details.push(detail);
        self
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Response {
        let mut error = json!({ "code": refusal.status, "message": refusal.message, "status": refusal.name });
        if !refusal.details.is_empty() {
            error["details"] = refusal.details.into();
        }
        http::json(refusal.status, &json!({ "error": error }))
    }
}
