//! One test suite for all kinds of KEK, with one file in this directory for each kind.
//!
//! Each test is named `kind::case`. A kind whose program is missing is skipped with a message; if `CI` is set, that is a failure.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod aws;
mod gcp;
mod local;
mod pkcs11;
#[path = "../support/mod.rs"]
mod support;

use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::future::join_all;
use libtest_mimic::{Arguments, Trial};
use oci_secrets::fault::{Class, Fault};
use oci_secrets::reference::Reference;
use oci_secrets::report;
use oci_secrets::retry::Deadline;
use oci_secrets::seal::envelope::DataKey;
use oci_secrets::seal::kek::{KekError, KekUri, Keks};
use oci_secrets::seal::{SealError, SealedValue};
use oci_secrets::secret::Secret;
use oci_secrets::settings::Settings;
use oci_secrets::tls;

/// The kinds, each with its fixture and its own cases.
const KINDS: [(&str, CreateFixture, &[Case]); 4] = [
    ("gcp", gcp::fixture, &gcp::CASES),
    ("aws", aws::fixture, &aws::CASES),
    ("pkcs11", pkcs11::fixture, &pkcs11::CASES),
    ("local", local::fixture, &[]),
];

/// Creates the fixture of a kind, `None` if a program is missing.
type CreateFixture = fn() -> Option<Box<dyn Fixture>>;

/// The name and the body of a test.
type Case = (&'static str, fn(&dyn Fixture));

/// The tests of every kind.
const CASES: [Case; 10] = [
    ("unseals_what_it_sealed", unseals_what_it_sealed),
    ("refuses_another_reference", refuses_another_reference),
    ("refuses_a_truncated_or_modified_key", refuses_a_truncated_or_modified_key),
    ("refuses_a_key_that_another_kek_wrapped", refuses_a_key_that_another_kek_wrapped),
    ("reports_that_it_is_unreachable", |fixture| fails_with_the_class_of(fixture, Failure::Unreachable)),
    ("respects_the_deadline", |fixture| fails_with_the_class_of(fixture, Failure::Slow)),
    ("reports_that_access_is_denied", |fixture| fails_with_the_class_of(fixture, Failure::Denied)),
    ("serves_concurrent_calls", serves_concurrent_calls),
    ("caches_an_unwrapped_key", caches_an_unwrapped_key),
    ("describes_its_abilities", describes_its_abilities),
];

/// The deadline where a service that does not answer is met, and the one everywhere else.
const DEADLINE: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(15);

/// The tolerance for the deadline: all tests share two cores.
const SLACK: Duration = Duration::from_secs(2);

const REFERENCE: &str = "op://AgentVault/database/password";
const SECRET: &[u8] = b"hunter2 \x00 of any bytes";

/// The fixture of one kind of KEK: working settings, and faults.
trait Fixture {
    /// Working settings that list all of these keys.
    fn settings(&self) -> String;

    /// Two keys of the kind.
    fn keks(&self) -> [String; 2];

    /// Settings and a key with this fault, and the class of the expected error.
    fn failure(&self, failure: Failure) -> (String, String, Class);

    /// Whether a value of another key is refused like a key without permission.
    fn hides_the_existence_of_keys(&self) -> bool {
        false
    }

    /// Strings that must not appear in messages.
    fn secrets(&self) -> Vec<String>;
}

/// A fault of a KMS or a key.
#[derive(Clone, Copy, Debug)]
enum Failure {
    Unreachable,
    Slow,
    Denied,
}

fn main() -> ExitCode {
    tls::install();
    let trials = KINDS.iter().flat_map(|(kind, fixture, own)| {
        CASES.iter().chain(*own).map(move |(name, test)| {
            Trial::test(format!("{kind}::{name}"), move || {
                if let Some(fixture) = fixture() {
                    test(&*fixture);
                }
                Ok(())
            })
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn unseals_what_it_sealed(fixture: &dyn Fixture) {
    for kek in fixture.keks() {
        let line = seal(fixture, &kek, REFERENCE);
        assert!(line.starts_with(&format!("sealed:v1 {kek} ")), "{line}");
        assert_eq!(unseal(fixture, &line, REFERENCE).unwrap(), SECRET);
        assert_ne!(line, seal(fixture, &kek, REFERENCE), "a data key was reused");
    }
}

fn refuses_another_reference(fixture: &dyn Fixture) {
    let line = seal(fixture, &fixture.keks()[0], REFERENCE);
    for other in ["op://AgentVault/database/Password", "op://AgentVault/database/other/password"] {
        let error = unseal(fixture, &line, other).unwrap_err();
        assert_eq!(error.class(), Class::Data, "{}", report::chain(&error));
    }
}

fn refuses_a_truncated_or_modified_key(fixture: &dyn Fixture) {
    let [kek, _] = fixture.keks();
    let whole = wrapped(&seal(fixture, &kek, REFERENCE));
    let cuts = [0, 1, 3, 4, 11, whole.len() / 2, whole.len() - 1].map(|end| whole[..end].to_vec());
    let changed = (0..whole.len()).step_by(7).map(|at| {
        let mut changed = whole.clone();
        changed[at] ^= 0x20;
        changed
    });
    for wrapped in cuts.into_iter().chain(changed) {
        let error = unwrap(&fixture.settings(), &kek, &wrapped).unwrap_err();
        assert_reports_the_value(fixture, &error);
    }
    unwrap(&fixture.settings(), &kek, &whole).unwrap();
}

fn refuses_a_key_that_another_kek_wrapped(fixture: &dyn Fixture) {
    let [kek, other] = fixture.keks();
    let line = seal(fixture, &kek, REFERENCE);
    assert_reports_the_value(fixture, &unseal(fixture, &line.replace(&kek, &other), REFERENCE).unwrap_err());
    assert_reports_the_value(fixture, &unwrap(&fixture.settings(), &other, &wrapped(&line)).unwrap_err());
}

fn assert_reports_the_value(fixture: &dyn Fixture, error: &dyn Fault) {
    let hidden = error.class() == Class::NotPermitted && fixture.hides_the_existence_of_keys();
    assert!(error.class() == Class::Data || hidden, "{}", report::chain(error));
}

fn fails_with_the_class_of(fixture: &dyn Fixture, failure: Failure) {
    let wrapped = wrapped(&seal(fixture, &fixture.keks()[0], REFERENCE));
    let (settings, kek, class) = fixture.failure(failure);
    let begin = Instant::now();
    let unwrapped =
        with_keks_within(DEADLINE, &settings, async |keks, deadline| keks.unwrap(&uri(&kek), &wrapped, deadline).await);
    let unwrapped = unwrapped.err().unwrap();
    assert!(begin.elapsed() < DEADLINE + SLACK, "unwrap took {:?}", begin.elapsed());
    let begin = Instant::now();
    let key = DataKey::generate().unwrap();
    let wrap_result =
        with_keks_within(DEADLINE, &settings, async |keks, deadline| keks.wrap(&uri(&kek), &key, deadline).await);
    assert!(begin.elapsed() < DEADLINE + SLACK, "wrap took {:?}", begin.elapsed());
    for error in [unwrapped, wrap_result.err().unwrap()] {
        let message = format!("{} {}", report::chain(&error), error.hint().unwrap_or_default());
        assert_eq!(error.class(), class, "{message}");
        assert!(fixture.secrets().iter().all(|secret| !message.contains(secret)), "{message}");
    }
}

/// A wrapped data key is unwrapped once: the cached result is returned even if the deadline has expired.
fn caches_an_unwrapped_key(fixture: &dyn Fixture) {
    let [kek, _] = fixture.keks();
    let wrapped = wrapped(&seal(fixture, &kek, REFERENCE));
    with_keks(&fixture.settings(), async |keks, deadline| {
        let kek = uri(&kek);
        let both = [keks.unwrap(&kek, &wrapped, deadline), keks.unwrap(&kek, &wrapped, deadline)];
        let [first, second] = join_all(both).await.try_into().ok().unwrap();
        let third = keks.unwrap(&kek, &wrapped, Deadline::after(Duration::ZERO)).await;
        let [first, second, third] = [first, second, third].map(|key| key.ok().unwrap());
        assert!(Rc::ptr_eq(&first, &second) && Rc::ptr_eq(&first, &third));
    });
}

fn serves_concurrent_calls(fixture: &dyn Fixture) {
    let [kek, other] = fixture.keks();
    let wrapped: Vec<_> =
        (0..24).map(|index| wrapped(&seal(fixture, if index % 3 == 0 { &other } else { &kek }, REFERENCE))).collect();
    let opened = with_keks(&fixture.settings(), async |keks, deadline| {
        let one = async |(index, wrapped): (usize, &Vec<u8>)| {
            keks.unwrap(&uri(if index % 3 == 0 { &other } else { &kek }), wrapped, deadline).await
        };
        Ok::<_, KekError>(join_all(wrapped.iter().enumerate().map(one)).await)
    });
    let keys: Vec<_> =
        opened.ok().unwrap().into_iter().map(|key| key.ok().unwrap().data_key.serialized().to_vec()).collect();
    assert!(
        keys.iter().enumerate().all(|(at, key)| !keys[..at].contains(key)),
        "a result was returned to another call"
    );
}

fn describes_its_abilities(fixture: &dyn Fixture) {
    for kek in fixture.keks() {
        let abilities =
            with_keks(&fixture.settings(), async |keks, deadline| keks.describe(&uri(&kek), deadline).await);
        let abilities = abilities.map_err(|error| report::chain(&error)).unwrap();
        assert!(abilities.wrap && abilities.unwrap, "{kek}");
    }
    let error = unwrap("keks = []", &fixture.keks()[0], b"x").unwrap_err();
    assert_eq!(error.class(), Class::NotPermitted, "{}", report::chain(&error));
}

fn seal(fixture: &dyn Fixture, kek: &str, reference: &str) -> String {
    let (secret, reference): (_, Reference) = (Secret::new(SECRET.to_vec()), reference.parse().unwrap());
    let sealed = with_keks(&fixture.settings(), async |keks, deadline| {
        SealedValue::seal(&secret, uri(kek), &reference, keks, deadline).await
    });
    sealed.unwrap_or_else(|source| panic!("{}", report::chain(&source))).to_string()
}

fn unseal(fixture: &dyn Fixture, line: &str, reference: &str) -> Result<Vec<u8>, SealError> {
    let reference: Reference = reference.parse().unwrap();
    let unsealed = with_keks(&fixture.settings(), async |keks, deadline| {
        line.parse::<SealedValue>()?.unseal(&reference, keks, deadline).await
    });
    unsealed.map(|unsealed| unsealed.secret.expose().to_vec())
}

fn unwrap(settings: &str, kek: &str, wrapped: &[u8]) -> Result<Vec<u8>, KekError> {
    let unwrapped = with_keks(settings, async |keks, deadline| keks.unwrap(&uri(kek), wrapped, deadline).await);
    unwrapped.map(|unwrapped| unwrapped.data_key.serialized().to_vec())
}

fn with_keks<T>(settings: &str, work: impl AsyncFnOnce(&Keks<'_>, Deadline) -> T) -> T {
    with_keks_within(PATIENCE, settings, work)
}

fn with_keks_within<T>(within: Duration, settings: &str, work: impl AsyncFnOnce(&Keks<'_>, Deadline) -> T) -> T {
    let settings: Settings = settings.parse().unwrap_or_else(|error| panic!("{error}: {settings}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { work(&Keks::new(&settings), Deadline::after(within)).await })
}

/// The wrapped data key in a sealed value.
fn wrapped(line: &str) -> Vec<u8> {
    let envelope = BASE64_STANDARD.decode(line.rsplit(' ').next().unwrap()).unwrap();
    let (length, rest) = envelope.split_first_chunk().unwrap();
    rest[..u32::from_be_bytes(*length) as usize].to_vec()
}

fn uri(kek: &str) -> KekUri {
    kek.parse().unwrap()
}
