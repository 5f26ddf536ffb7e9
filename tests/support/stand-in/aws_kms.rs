//! The errors of AWS KMS, which moto lacks, at the address of Cloud KMS. The last part of a key's ARN is the code of the error, with
//! `decrypt-` in front only of decryption; any other key works. Ciphertexts are JSON, and protect nothing.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hyper::header::HeaderName;
use serde_json::{Value, json};

use crate::http::{self, Request, Response};

const TARGET: HeaderName = HeaderName::from_static("x-amz-target");

const USER: &str = "User: arn:aws:sts::123456789012:assumed-role/agents/i-0abc is not authorized to perform: kms:Decrypt on resource: \
    arn:aws:kms:eu-central-1:123456789012:key/denied";

/// Key, status, code and message.
const ERRORS: [(&str, u16, &str, &str); 21] = [
    ("denied", 400, "AccessDeniedException", "{USER} because no identity-based policy allows the kms:Decrypt action"),
    ("denied-explicitly", 400, "AccessDeniedException", "{USER} with an explicit deny in a service control policy"),
    ("missing", 400, "NotFoundException", "Key 'arn:aws:kms:eu-central-1:123456789012:key/missing' does not exist"),
    ("disabled", 400, "DisabledException", "arn:aws:kms:eu-central-1:123456789012:key/disabled is disabled."),
    (
        "deleted",
        400,
        "KMSInvalidStateException",
        "arn:aws:kms:eu-central-1:123456789012:key/deleted is pending deletion.",
    ),
    ("import", 400, "KMSInvalidStateException", "arn:aws:kms:eu-central-1:123456789012:key/import is pending import."),
    ("store", 400, "KMSInvalidStateException", "arn:aws:kms:eu-central-1:123456789012:key/store is unavailable."),
    ("creating", 400, "KMSInvalidStateException", "arn:aws:kms:eu-central-1:123456789012:key/creating is creating."),
    ("usage", 400, "InvalidKeyUsageException", "KeyUsage is SIGN_VERIFY"),
    (
        "other",
        400,
        "IncorrectKeyException",
        "The key ID in the request does not identify a CMK that can perform this operation.",
    ),
    ("changed", 400, "InvalidCiphertextException", ""),
    ("unavailable", 500, "KeyUnavailableException", "The key is not available. Try again."),
    ("internal", 500, "KMSInternalException", "An internal error occurred."),
    ("throttled", 400, "ThrottlingException", "Rate exceeded"),
    ("expired", 400, "ExpiredTokenException", "The security token included in the request is expired"),
    ("unknown", 400, "UnrecognizedClientException", "The security token included in the request is invalid."),
    ("signature", 400, "InvalidSignatureException", "The request signature we calculated does not match."),
    (
        "clock",
        400,
        "InvalidSignatureException",
        "Signature expired: 20261126T190000Z is now earlier than 20261126T200000Z",
    ),
    ("region", 400, "OptInRequired", "The AWS access key ID needs a subscription for the service."),
    (
        "invalid",
        400,
        "ValidationException",
        "1 validation error detected: Value at 'keyId' failed to satisfy a constraint",
    ),
    ("new", 400, "BrandNewException", "token ya29.canary \u{1b}[2J is not known"),
];

/// Whether a request is one to AWS KMS.
pub(crate) fn is_for(request: &Request) -> bool {
    request.header(TARGET).is_some()
}

pub(crate) fn answer(request: &Request) -> Response {
    let operation = request.header(TARGET).unwrap_or_default();
    let body = request.json();
    let key = body["KeyId"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let fault = match key.strip_prefix("decrypt-") {
        Some(fault) if operation == "TrentService.Decrypt" => fault,
        Some(_) => "",
        None => key,
    };
    if let Some((_, status, code, message)) = ERRORS.into_iter().find(|(name, ..)| *name == fault) {
        return error(status, code, &message.replace("{USER}", USER));
    }
    if body["DryRun"] == true {
        return error(
            400,
            "DryRunOperationException",
            "The request would have succeeded, but the DryRun option is set.",
        );
    }
    let context = &body["EncryptionContext"];
    match operation {
        "TrentService.Encrypt" => {
            let blob = json!({ "key": key, "context": context, "plaintext": body["Plaintext"] }).to_string();
            http::json(200, &json!({ "KeyId": body["KeyId"], "CiphertextBlob": BASE64_STANDARD.encode(blob) }))
        }
        "TrentService.Decrypt" => match open(body["CiphertextBlob"].as_str(), key, context) {
            Some(plaintext) => http::json(200, &json!({ "KeyId": body["KeyId"], "Plaintext": plaintext })),
            None => error(400, "InvalidCiphertextException", ""),
        },
        _ => error(400, "UnknownOperationException", ""),
    }
}

fn open(blob: Option<&str>, key: &str, context: &Value) -> Option<Value> {
    let blob: Value = serde_json::from_slice(&BASE64_STANDARD.decode(blob?).ok()?).ok()?;
    (blob["key"] == key && blob["context"] == *context).then(|| blob["plaintext"].clone())
}

fn error(status: u16, code: &str, message: &str) -> Response {
    http::json(status, &json!({ "__type": code, "message": message }))
}
