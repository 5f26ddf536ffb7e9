//! The memory that one authorized job can make the gateway use.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use serde_json::{Value, json};

use crate::support::gateway::{Gateway, Install};
use crate::support::{AGENT_VAULT, StandIn, with_mode};
use crate::{issuer, rule, vault_path};

const LISTS: usize = 120;
const ITEMS: usize = 1_500;
const LIST_BYTES: usize = 4_000_000;
/// Far less than the size of all lists, and than the limit in `packaging/systemd`.
const MEMORY_KIB_MAX: usize = 128 * 1024;

#[test]
fn long_lists_in_parallel_stay_within_the_memory_of_the_unit() {
    let item = |at: usize| {
        json!({ "id": format!("{at:026}"), "title": format!("item {at}"), "vault": { "id": AGENT_VAULT }, "category": "LOGIN",
            "tags": ["a", "b"], "version": 1, "favorite": false, "createdAt": "2026-01-02T03:04:05Z",
            "updatedAt": "2026-01-02T03:04:05Z", "additionalInformation": "x".repeat(LIST_BYTES / ITEMS - 400),
            "urls": [{ "primary": true, "href": "https://example.com/" }] })
    };
    let items: Value = (0..ITEMS).map(item).collect();
    let stand_in = StandIn::start(&[]);
    for (references, shown) in [("op://AgentVault/*", ITEMS), ("op://AgentVault/item 7/*", 1)] {
        let connect = serve(json!([{ "id": AGENT_VAULT, "name": "AgentVault" }]), items.clone());
        let rules = format!("{}{}", issuer(&stand_in, "github", "github"), rule(&stand_in, &[references]));
        let install = Install::new(&stand_in, &rules);
        let settings = fs::read_to_string(install.path("gateway.toml")).unwrap().replace(stand_in.connect(), &connect);
        with_mode(&install.path("gateway.toml"), settings.as_bytes(), 0o644);
        let command = install.program();
        let gateway = Gateway::run(command, install);
        let token = stand_in.mint("github", &Value::Null);
        let served: usize = thread::scope(|scope| {
            let list = || {
                let answer = gateway.get(&vault_path("/items"), &token);
                // On a slow machine some requests exceed the gateway's wait limit.
                assert!(matches!(answer.status, 200 | 429), "{}", String::from_utf8_lossy(&answer.body));
                let is_served = answer.status == 200;
                assert!(!is_served || answer.json().as_array().unwrap().len() == shown);
                usize::from(is_served)
            };
            let lists: Vec<_> = (0..LISTS).map(|_| scope.spawn(list)).collect();
            lists.into_iter().map(|list| list.join().unwrap()).sum()
        });
        assert!(served > 8, "{served}");
        let peak = peak_memory_kib(gateway.pid());
        assert!(peak < MEMORY_KIB_MAX, "{peak} KiB at {LISTS} lists of {ITEMS} items, of which {shown} are granted");
    }
}

/// The peak resident memory of a process.
fn peak_memory_kib(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Starts a Connect server on loopback with these vaults, and these items in each.
fn serve(vaults: Value, items: Value) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let bodies = Arc::new((vaults.to_string(), items.to_string()));
    thread::spawn(move || {
        for stream in listener.incoming().map(Result::unwrap) {
            let bodies = Arc::clone(&bodies);
            thread::spawn(move || respond(&stream, &bodies.0, &bodies.1));
        }
    });
    url
}

fn respond(stream: &TcpStream, vaults: &str, items: &str) {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        let _head: Vec<_> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        let body = if request.contains("/items") { items } else { vaults };
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut writer = stream;
        if writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(body.as_bytes())).is_err() {
            return;
        }
    }
}
