//! The latency that the gateway adds to requests to 1Password Connect at a steady rate, and its memory over time.

use std::fs;
use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::measure::{median, milliseconds, percentile, resident};
use crate::support::gateway::{AUDIENCE, Gateway, Install};
use crate::support::{AGENT_VAULT, StandIn};

const RATE: u32 = 200;
/// The duration of one side's turn.
const TURN: Duration = Duration::from_secs(2);
const ADDED_MOST: f64 = 5.0;

/// Requests the same item from Connect and the gateway in turn for `minutes`, at [`RATE`] requests per second, over TLS and with new
/// tokens each turn. The time of a request starts when it is due, even if earlier ones are pending.
pub(crate) fn steady_load(minutes: f64) {
    oci_secrets::tls::install();
    let directory = tempfile::Builder::new().prefix("bench").tempdir().unwrap();
    let stand_in = StandIn::start(&["--dir", directory.path().to_str().unwrap(), "--tls"]);
    let ca_file = stand_in.ca_file().unwrap();
    let item = stand_in.create_item(AGENT_VAULT, "deploy", &[("", "password", "canary"), ("prod", "key", "canary")]);
    let rules = format!(
        "stdout = true\n[[issuer]]\nurl = '{url}'\nkind = 'github'\naudience = '{AUDIENCE}'\nca-file = {ca_file:?}\n\
         [[rule]]\nname = 'deploy'\nissuer = '{url}'\nreferences = ['op://AgentVault/deploy/password']\n\
         claims = {{ repository = 'acme/app', repository_owner_id = '65123', ref = 'refs/heads/main' }}\n\
         [limits]\nrate = 1000\nburst = 1000\n",
        url = stand_in.issuer("github"),
    );
    let install = Install::new(&stand_in, &rules);
    install.trust(&ca_file);
    let mut command = install.program();
    command.stdout(std::process::Stdio::null());
    let gateway = Gateway::run(command, install);

    let path = format!("/v1/vaults/{AGENT_VAULT}/items/{item}");
    let [direct_url, gateway_url] = [format!("{}{path}", stand_in.connect()), format!("{}{path}", gateway.url())];
    let (direct, through) = (client(&ca_file), client(&gateway.install().path("gateway.crt")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut base, mut ours, mut memory, mut descriptors) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let turns = (minutes * 60.0 / (2.0 * TURN.as_secs_f64())).ceil() as usize;
    for turn in 0..=turns {
        let token = stand_in.mint("github", &Value::Null);
        let of_connect = runtime.block_on(ask(&direct, &direct_url, stand_in.token()));
        let of_gateway = runtime.block_on(ask(&through, &gateway_url, &token));
        memory.push(resident(gateway.pid()));
        descriptors.push(fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap().count());
        // The first turn opens connections, and is not measured.
        if turn > 0 {
            base.extend(of_connect);
            ours.extend(of_gateway);
        }
    }

    println!("An item of 1Password Connect, {RATE} requests a second in turn, for {minutes} min");
    let shown = |times: &[Duration]| [median(times.to_vec()), percentile(times, 99)].map(milliseconds);
    let ([base50, base99], [ours50, ours99]) = (shown(&base), shown(&ours));
    println!("  {:46} {base50:8.2} ms  p99 {base99:8.2} ms", "Connect itself");
    println!("  {:46} {ours50:8.2} ms  p99 {ours99:8.2} ms", "through the gateway");
    let verdict = if ours99 - base99 < ADDED_MOST { "" } else { "  missed" };
    println!(
        "  {:46} {:+8.2} ms  p99 {:+8.2} ms  target < {ADDED_MOST}{verdict}",
        "added",
        ours50 - base50,
        ours99 - base99
    );
    // Memory for the peak number of connections stays allocated.
    let quarter = memory.len().div_ceil(4);
    let from = |begin: usize| {
        let most = descriptors[begin..begin + quarter].iter().max().unwrap();
        format!("{:.1} MiB, at most {most} descriptors", median(memory[begin..begin + quarter].to_vec()))
    };
    let (first, last) = (from(0), from(memory.len() - quarter));
    println!("  {:46} first quarter {first}; last {last}", "resident memory of the gateway");
}

fn client(ca_file: &std::path::Path) -> Client {
    let authority = reqwest::Certificate::from_pem(&fs::read(ca_file).unwrap()).unwrap();
    #[expect(clippy::disallowed_methods, reason = "it measures from outside, by address")]
    let client = Client::builder();
    client.tls_certs_only([authority]).no_proxy().http1_only().build().unwrap()
}

/// The durations of the requests of one turn.
async fn ask(client: &Client, url: &str, token: &str) -> Vec<Duration> {
    let mut due = interval(Duration::from_secs(1) / RATE);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let count = RATE * u32::try_from(TURN.as_secs()).unwrap();
    let mut requests = Vec::new();
    for _ in 0..count {
        let begin: Instant = due.tick().await;
        let request = client.get(url).bearer_auth(token);
        requests.push(tokio::spawn(async move {
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 200);
            response.bytes().await.unwrap();
            begin.elapsed()
        }));
    }
    let mut times = Vec::new();
    for request in requests {
        times.push(request.await.unwrap());
    }
    times
}
