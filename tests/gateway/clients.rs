//! Unmodified Connect clients, with an identity token in place of a Connect token.

use serde_json::Value;

use crate::Site;
use crate::support::container::Container;
use crate::support::host::Host;
use crate::support::{AGENT_VAULT, python, skip};

#[test]
fn is_compatible_with_the_1password_client() {
    let site = Site::granting(&[
        "op://AgentVault/deploy/*",
        "op://AgentVault/ordinary/username",
        "op://Shapes/files/text.txt",
    ]);
    site.stand_in.create_item(
        AGENT_VAULT,
        "deploy",
        &[("", "password", "canary-seen"), ("prod", "key", "canary-seen")],
    );
    site.stand_in.create_item(AGENT_VAULT, "hidden", &[("", "password", "canary-hidden")]);
    let ready = serde_json::json!({ "connect": site.gateway.url(), "token": site.mint(Value::Null) });
    if let Some(mut client) = python::client("gateway_client.py") {
        let status =
            client.arg(ready.to_string()).env("SSL_CERT_FILE", site.gateway.install().path("gateway.crt")).status();
        assert!(status.unwrap().success(), "gateway_client.py found a difference");
    }
}

#[test]
fn serves_the_hook() {
    if !rustix::process::geteuid().is_root() {
        return skip("a mount namespace requires root");
    }
    let site = Site::granting(&["op://AgentVault/deploy/password"]);
    let host = Host::new(&site.stand_in, "");
    let seal = ["seal", "--kek", crate::support::host::LOCAL_KEK, "--for", "op://AgentVault/deploy/password"];
    let sealed = String::from_utf8(host.oci_secrets(&seal, b"canary-secret").stdout).unwrap();
    let fields = [("", "password", sealed.trim_end()), ("", "other", sealed.trim_end())];
    site.stand_in.create_item(AGENT_VAULT, "deploy", &fields);
    let settings = std::fs::read_to_string(host.settings()).unwrap();
    let connect = format!("[connect]\nca-file = {:?}", site.gateway.install().path("gateway.crt"));
    let settings = settings.replace(site.stand_in.connect(), &site.gateway.url()).replace("[connect]", &connect);
    host.write("settings.toml", settings.as_bytes(), 0o644);
    host.write("token", site.mint(Value::Null).as_bytes(), 0o600);

    let container = Container::create();
    let request = |field: &str| [("run.secrets/x".to_owned(), format!("op://AgentVault/deploy/{field}"))];
    let output = host.hook(&container.state(request("password")));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(container.secret("x"), b"canary-secret");
    assert_eq!(site.last()["action"], "read-item");

    host.write("token", site.mint(serde_json::json!({ "claims": { "aud": "other" } })).as_bytes(), 0o600);
    let output = host.hook(&Container::create().state(request("password")));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("401 Unauthorized") && message.contains("audience is not this gateway alone"),
        "{message}"
    );
    host.write("token", site.mint(Value::Null).as_bytes(), 0o600);

    let output = host.hook(&Container::create().state(request("other")));
    assert_eq!(output.status.code(), Some(66));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no field \"other\" in item \"deploy\""));
}
