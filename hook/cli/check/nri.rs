//! Whether the runtime asks the broker's NRI plugin.

use crate::cli::finding::Finding;
use crate::fault::Class;
use crate::nri::{Runtime, Snapshot};

const SUBJECT: &str = "nri";

/// What the broker shows of its plugin. A probe may rely on it: a plugin that is not registered is a problem.
pub(super) fn finding(snapshot: &Snapshot) -> Finding {
    let socket = snapshot.socket.display();
    let Some(Runtime { name, version, validates }) = &snapshot.runtime else {
        let cause = snapshot.cause.as_deref().unwrap_or("it has not registered yet");
        let detail = format!("the runtime at {socket} does not ask the broker: {cause}");
        let advice = "until it does, containers start without the hook, unless the runtime has another way to it";
        return Finding::problem_with(Class::Unavailable, SUBJECT, detail, advice.into());
    };
    let detail = format!("{name} {version} at {socket} asks the broker about each container");
    match (snapshot.started_without, validates) {
        (0, true) => Finding::ok(SUBJECT, format!("{detail}, and whether it has the hook")),
        (0, false) => Finding::ok(SUBJECT, detail),
        (count, _) => {
            let detail = format!("{detail}; when the broker began, containers ran without the hook: {count}");
            let advice = "restart those that request secrets: `journalctl -t oci-secrets-broker` names them";
            Finding::warning(SUBJECT, detail, advice.into())
        }
    }
}
