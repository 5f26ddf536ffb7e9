//! Sealed values that were fetched earlier bridge an outage, and nothing else.

use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use std::{fs, io};

use jiff::{SignedDuration, Timestamp};
use oci_secrets::broker::source::Shared;
use oci_secrets::broker::source::sealed_files::{SealedFile, SealedFiles};
use oci_secrets::fault::Class;

use super::support::front::Mode;
use super::support::search::Needle;
use super::support::{StandIn, with_mode};
use super::{CANARY, DB, Site, block_on, class, fetch, fetch_within, metric, sealed, value};

const ON: &str = "sealed-values-for = '1h'";

impl Site {
    fn open_for_outages(&self) -> Shared {
        Shared::open(&self.settings("", ON)).unwrap()
    }

    /// Waits until so many values are on disk.
    pub(crate) fn stored(&self, count: usize) -> Vec<SealedFile> {
        let begin = Instant::now();
        loop {
            let files = SealedFiles::new(&self.path("sealed")).list().unwrap();
            if files.len() == count {
                return files;
            }
            assert!(begin.elapsed() < super::PATIENCE, "{} values are stored, expected {count}", files.len());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn starts_continue_while_the_source_does_not_answer_and_after_a_restart() {
    let site = Site::new();
    site.store("db", &sealed(1));
    let shared = site.open_for_outages();
    assert_eq!(value(&shared.for_start("first"), DB), sealed(1));
    let stored = site.stored(1);
    assert_eq!((stored[0].item_version, stored[0].fetched_for.as_deref()), (Some(1), Some("first")));
    for mode in [Mode::Close, Mode::Silent, Mode::Status("500 Internal Server Error"), Mode::Status("503 Busy")] {
        site.front.set(mode);
        for shared in [&shared, &site.open_for_outages()] {
            let (deadline, begin) = (Duration::from_secs(4), Instant::now());
            let field =
                block_on(fetch_within(shared, DB, deadline)).unwrap_or_else(|error| panic!("{mode:?}: {error}"));
            assert!(begin.elapsed() < deadline, "{mode:?}: time is left for the KMS");
            let earlier = field.earlier.unwrap();
            assert!(earlier.outage && earlier.start.as_deref() == Some("first"), "{mode:?}");
            assert_eq!((&**field.value, field.version), (&*sealed(1), Some(1)));
            assert!(Timestamp::now().duration_since(earlier.fetched) < SignedDuration::from_mins(2));
        }
    }
    assert!(metric(&shared, "source_outage_values") >= 4);
    assert_eq!((metric(&shared, "sealed_values"), metric(&shared, "sealed_values_written")), (1, 1));
    site.front.set(Mode::Forward);
    assert!(fetch(&site.open_for_outages(), DB).unwrap().earlier.is_none(), "the source is asked first");
}

#[test]
fn without_the_setting_nothing_is_stored_or_used() {
    let site = Site::new();
    site.store("db", &sealed(1));
    let shared = site.open();
    assert_eq!(value(&shared, DB), sealed(1));
    site.front.set(Mode::Close);
    assert_eq!(class(&shared, DB), Class::Unavailable);
    assert!(!site.path("sealed").exists());
}

#[test]
fn a_certificate_that_expires_is_an_outage() {
    let site = Site::new();
    let directory = site.directory.path().display().to_string();
    let tls = StandIn::start(&["--tls", "--dir", &directory]);
    let port = tls.connect().rsplit_once(':').unwrap().1.to_owned();
    // A stand-in knows the tokens of its own start only.
    site.write_token(tls.token());
    tls.create_item(super::AGENT_VAULT, "db", &[("", "password", &sealed(1))]);
    let connect = format!(
        "[connect]\nurl = {:?}\ntoken-file = {:?}\nca-file = {:?}\n",
        tls.connect(),
        site.path("token"),
        site.path("ca.pem")
    );
    let settings = format!("{connect}[outage]\n{ON}\ndirectory = {:?}", site.path("sealed")).parse().unwrap();
    let shared = Shared::open(&settings).unwrap();
    assert_eq!(value(&shared, DB), sealed(1));
    site.stored(1);
    drop(tls);
    let _expired = StandIn::start(&["--tls-expired", "--dir", &directory, "--connect-port", &port]);
    let field = block_on(fetch_within(&shared, DB, Duration::from_secs(10))).unwrap();
    assert!(field.earlier.unwrap().outage);
}

#[test]
fn a_certificate_of_another_authority_is_no_outage() {
    let site = Site::new();
    let other = site.path("other");
    fs::create_dir(&other).unwrap();
    let tls = StandIn::start(&["--tls", "--dir", &other.display().to_string()]);
    let second = tempfile::tempdir().unwrap();
    let untrusted = StandIn::start(&["--tls", "--dir", &second.path().display().to_string()]);
    SealedFiles::new(&site.path("sealed")).write(&SealedFile::new(untrusted.connect(), DB, &sealed(1))).unwrap();
    let connect = format!(
        "[connect]\nurl = {:?}\ntoken-file = {:?}\nca-file = {:?}\n",
        untrusted.connect(),
        site.path("token"),
        tls.ca_file().unwrap()
    );
    let settings = format!("{connect}[outage]\n{ON}\ndirectory = {:?}", site.path("sealed")).parse().unwrap();
    assert_eq!(class(&Shared::open(&settings).unwrap(), DB), Class::Settings);
}

#[test]
fn a_name_without_an_address_is_an_outage() {
    let site = Site::new();
    let url = "http://connect.invalid:8080";
    SealedFiles::new(&site.path("sealed")).write(&SealedFile::new(url, DB, &sealed(1))).unwrap();
    let connect = format!("[connect]\nurl = {url:?}\ntoken-file = {:?}\nplain-http = 'allow'\n", site.path("token"));
    let settings = format!("{connect}[outage]\n{ON}\ndirectory = {:?}", site.path("sealed")).parse().unwrap();
    let shared = Shared::open(&settings).unwrap();
    let field = block_on(fetch_within(&shared, DB, Duration::from_secs(4))).unwrap();
    assert!(field.earlier.unwrap().outage);
}

#[test]
fn a_refusal_is_final_also_in_a_later_outage() {
    let site = Site::new();
    let shared = site.open_for_outages();
    let lost = |shared: &Shared, reference: &str, expected: Class| {
        site.stored(1);
        assert_eq!(class(shared, reference), expected);
        // Longer than an absence is remembered.
        std::thread::sleep(Duration::from_millis(1100));
        site.front.set(Mode::Close);
        assert_eq!(class(shared, reference), Class::Unavailable, "{reference} is not bridged");
        assert_eq!(class(&site.open_for_outages(), reference), Class::Unavailable, "nor after a restart");
        site.front.set(Mode::Forward);
    };
    // A probe has to close the circuit breaker again.
    let fresh = || site.open_for_outages();

    site.store("db", &sealed(1));
    assert_eq!(value(&shared, DB), sealed(1));
    site.stored(1);
    site.write_token("e30.e30.e30");
    lost(&shared, DB, Class::NotPermitted);
    site.write_token(site.stand_in.token());

    let shared = fresh();
    let id = site.store("deleted", &sealed(1));
    let deleted = "op://AgentVault/deleted/password";
    assert_eq!(value(&shared, deleted), sealed(1));
    site.stored(1);
    site.delete(&id);
    lost(&shared, deleted, Class::NotFound);

    let shared = fresh();
    let id = site.store("plain", &sealed(1));
    let plain = "op://AgentVault/plain/password";
    assert_eq!(value(&shared, plain), sealed(1));
    site.stored(1);
    site.change(&id, &format!("{CANARY}-plain"));
    assert_eq!(value(&shared, plain), format!("{CANARY}-plain"));
    site.stored(0);
}

#[test]
fn a_changed_value_replaces_the_one_before() {
    let site = Site::new();
    let id = site.store("db", &sealed(1));
    let shared = site.open_for_outages();
    assert_eq!(value(&shared, DB), sealed(1));
    site.stored(1);
    site.change(&id, &sealed(2));
    assert_eq!(value(&shared, DB), sealed(2));
    let begin = Instant::now();
    while site.stored(1)[0].value != sealed(2) {
        assert!(begin.elapsed() < super::PATIENCE);
    }
    site.front.set(Mode::Close);
    assert_eq!(value(&shared, DB), sealed(2));
    assert_eq!(value(&site.open_for_outages(), DB), sealed(2));
}

#[test]
fn the_time_is_bounded_and_the_file_must_be_ours() {
    let site = Site::new();
    let files = SealedFiles::new(&site.path("sealed"));
    let mut file = SealedFile::new(&site.front.url(), DB, &sealed(1));
    site.front.set(Mode::Status("503 Busy"));
    let store = |file: &SealedFile| files.write(file).unwrap();
    file.fetched = Timestamp::now() - SignedDuration::from_mins(61);
    store(&file);
    assert_eq!(class(&site.open_for_outages(), DB), Class::Unavailable, "too old");
    file.fetched = Timestamp::now() - SignedDuration::from_mins(59);
    store(&file);
    assert_eq!(value(&site.open_for_outages(), DB), sealed(1));
    for mode in [0o720, 0o702] {
        fs::set_permissions(site.path("sealed"), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        assert_eq!(class(&site.open_for_outages(), DB), Class::Unavailable, "{mode:o}");
    }
    fs::set_permissions(site.path("sealed"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    file.value = format!("{CANARY}-planted");
    store(&file);
    assert_eq!(class(&site.open_for_outages(), DB), Class::Unavailable, "a plain value");
}

#[test]
fn no_plain_value_reaches_the_disk() {
    let site = Site::new();
    let fields = [("", "sealed", &*sealed(1)), ("", "plain", &*format!("{CANARY}-plain"))];
    site.stand_in.create_item(super::AGENT_VAULT, "db", &fields);
    let shared = Shared::open(&site.settings("max-age = '1h'", ON)).unwrap();
    assert!(fetch(&shared, "op://AgentVault/db/plain").is_ok());
    assert_eq!(value(&shared, "op://AgentVault/db/sealed"), sealed(1));
    site.stored(1);
    let needle = Needle::new(CANARY);
    for entry in fs::read_dir(site.path("sealed")).unwrap() {
        let path = entry.unwrap().path();
        assert!(!needle.is_in(fs::read(&path).unwrap()), "{}", path.display());
    }
    // That the search finds one.
    with_mode(&site.path("canary"), format!("{CANARY}-plain").as_bytes(), 0o600);
    assert!(needle.is_in(fs::read(site.path("canary")).unwrap()));
}

/// The settings name another source while a request to the first one is being made.
#[test]
fn what_the_source_before_a_reload_answers_is_not_kept_for_the_next_one() {
    let (one, other) = (Site::new(), Site::new());
    one.store("db", &sealed(1));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (arrived, has_arrived) = mpsc::channel();
    let (open, is_open) = mpsc::channel::<()>();
    let to = one.stand_in.connect().strip_prefix("http://").unwrap().to_owned();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = arrived.send(());
            // Once: then there is no other end.
            let _ = is_open.recv();
            let mut server = TcpStream::connect(&to).unwrap();
            let (mut from, mut into) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || io::copy(&mut from, &mut into));
            std::thread::spawn(move || io::copy(&mut server, &mut client));
        }
    });
    let (token, sealed_values) = (one.path("token"), other.path("sealed"));
    let connect = format!("[connect]\nurl = {url:?}\ntoken-file = {token:?}\n");
    let outage = format!("[outage]\n{ON}\ndirectory = {sealed_values:?}\n");
    let shared = Shared::open(&format!("{connect}[broker]\nmax-age = '1h'\n{outage}").parse().unwrap()).unwrap();
    let start = shared.for_start("first");
    let fetched = std::thread::spawn(move || value(&start, DB));
    has_arrived.recv_timeout(super::PATIENCE).unwrap();
    shared.reload(&other.settings("max-age = '1h'", ON)).unwrap();
    drop(open);
    assert_eq!(fetched.join().unwrap(), sealed(1), "the start that asked it gets its answer");
    assert_eq!(shared.snapshot().fresh, 0);
    assert_eq!(class(&shared, DB), Class::NotFound);
    other.front.set(Mode::Close);
    assert_eq!(class(&shared, "op://AgentVault/db/user"), Class::Unavailable);
    assert!(SealedFiles::new(&sealed_values).list().unwrap().is_empty());
}
