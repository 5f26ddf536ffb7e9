//! What every kind of KEK does, and does alike: one suite, and one file below this directory for each kind.
//!
//! `kind::situation` is the name of each test. A kind that cannot be tried here, for want of a program, is skipped aloud; where `CI` is
//! set that is a failure.

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

/// The kinds, each with its place and with what it alone can show.
const KINDS: [(&str, MakePlace, &[Situation]); 4] = [
    ("gcp", gcp::place, &gcp::SITUATIONS),
    ("aws", aws::place, &aws::SITUATIONS),
    ("pkcs11", pkcs11::place, &pkcs11::SITUATIONS),
    ("local", local::place, &[]),
];

/// Makes a place in which a kind's keys can be used, `None` if there can be none here.
type MakePlace = fn() -> Option<Box<dyn Place>>;

/// A name, and what shows it.
type Situation = (&'static str, fn(&dyn Place));

/// What is shown of each kind.
const SITUATIONS: [Situation; 10] = [
    ("opens_what_it_sealed", opens_what_it_sealed),
    ("opens_for_no_other_reference", opens_for_no_other_reference),
    ("opens_nothing_that_is_cut_short_or_changed", opens_nothing_that_is_cut_short_or_changed),
    ("opens_nothing_that_another_key_wrapped", opens_nothing_that_another_key_wrapped),
    ("tells_that_it_is_not_reached", |place| place_is_troubled(place, Trouble::Unreachable)),
    ("waits_no_longer_than_the_deadline", |place| place_is_troubled(place, Trouble::Slow)),
    ("tells_that_it_is_not_permitted", |place| place_is_troubled(place, Trouble::Denied)),
    ("serves_many_at_the_same_time", serves_many_at_the_same_time),
    ("unwraps_once_what_comes_twice", unwraps_once_what_comes_twice),
    ("tells_what_it_can_do", tells_what_it_can_do),
];

const DEADLINE: Duration = Duration::from_millis(1500);

/// What a call may take beyond the deadline: two cores are shared by all tests.
const SLACK: Duration = Duration::from_secs(2);

const REFERENCE: &str = "op://AgentVault/database/password";
const SECRET: &[u8] = b"hunter2 \x00 of any bytes";

/// Where KEKs of one kind can be used, and what can be wrong there.
trait Place {
    /// Settings that list all of these keys, and with which they work.
    fn settings(&self) -> String;

    /// A key, and another of the same kind.
    fn keks(&self) -> [String; 2];

    /// Settings and a key with which nothing works, and the class of the error that says so.
    fn trouble(&self, trouble: Trouble) -> (String, String, Class);

    /// Whether a value of another key gets the answer of a key that is not ours to use.
    fn hides_which_keys_there_are(&self) -> bool {
        false
    }

    /// What no message may contain.
    fn secrets(&self) -> Vec<String>;
}

/// What can be wrong.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Unreachable,
    Slow,
    Denied,
}

fn main() -> ExitCode {
    tls::install();
    let trials = KINDS.iter().flat_map(|(kind, place, own)| {
        SITUATIONS.iter().chain(*own).map(move |(name, show)| {
            Trial::test(format!("{kind}::{name}"), move || {
                if let Some(place) = place() {
                    show(&*place);
                }
                Ok(())
            })
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn opens_what_it_sealed(place: &dyn Place) {
    for kek in place.keks() {
        let line = seal(place, &kek, REFERENCE);
        assert!(line.starts_with(&format!("sealed:v1 {kek} ")), "{line}");
        assert_eq!(unseal(place, &line, REFERENCE).unwrap(), SECRET);
        assert_ne!(line, seal(place, &kek, REFERENCE), "a data key was used twice");
    }
}

fn opens_for_no_other_reference(place: &dyn Place) {
    let line = seal(place, &place.keks()[0], REFERENCE);
    for other in ["op://AgentVault/database/Password", "op://AgentVault/database/other/password"] {
        let error = unseal(place, &line, other).unwrap_err();
        assert_eq!(error.class(), Class::Data, "{}", report::chain(&error));
    }
}

fn opens_nothing_that_is_cut_short_or_changed(place: &dyn Place) {
    let [kek, _] = place.keks();
    let whole = wrapped(&seal(place, &kek, REFERENCE));
    let cuts = [0, 1, 3, 4, 11, whole.len() / 2, whole.len() - 1].map(|end| whole[..end].to_vec());
    let changed = (0..whole.len()).step_by(7).map(|at| {
        let mut changed = whole.clone();
        changed[at] ^= 0x20;
        changed
    });
    for wrapped in cuts.into_iter().chain(changed) {
        let error = unwrap(&place.settings(), &kek, &wrapped).unwrap_err();
        assert_blames_the_value(place, &error);
    }
    unwrap(&place.settings(), &kek, &whole).unwrap();
}

fn opens_nothing_that_another_key_wrapped(place: &dyn Place) {
    let [kek, other] = place.keks();
    let line = seal(place, &kek, REFERENCE);
    assert_blames_the_value(place, &unseal(place, &line.replace(&kek, &other), REFERENCE).unwrap_err());
    assert_blames_the_value(place, &unwrap(&place.settings(), &other, &wrapped(&line)).unwrap_err());
}

fn assert_blames_the_value(place: &dyn Place, error: &dyn Fault) {
    let hidden = error.class() == Class::NotPermitted && place.hides_which_keys_there_are();
    assert!(error.class() == Class::Data || hidden, "{}", report::chain(error));
}

fn place_is_troubled(place: &dyn Place, trouble: Trouble) {
    let wrapped = wrapped(&seal(place, &place.keks()[0], REFERENCE));
    let (settings, kek, class) = place.trouble(trouble);
    let begin = Instant::now();
    let unwrapped = unwrap(&settings, &kek, &wrapped).unwrap_err();
    assert!(begin.elapsed() < DEADLINE + SLACK, "unwrap took {:?}", begin.elapsed());
    let begin = Instant::now();
    let key = DataKey::generate().unwrap();
    let not_wrapped = with_keks(&settings, async |keks, deadline| keks.wrap(&uri(&kek), &key, deadline).await);
    assert!(begin.elapsed() < DEADLINE + SLACK, "wrap took {:?}", begin.elapsed());
    for error in [unwrapped, not_wrapped.err().unwrap()] {
        let told = format!("{} {}", report::chain(&error), error.hint().unwrap_or_default());
        assert_eq!(error.class(), class, "{told}");
        assert!(place.secrets().iter().all(|secret| !told.contains(secret)), "{told}");
    }
}

/// A wrapped data key that comes twice is unwrapped once: the second answer is there before any deadline.
fn unwraps_once_what_comes_twice(place: &dyn Place) {
    let [kek, _] = place.keks();
    let wrapped = wrapped(&seal(place, &kek, REFERENCE));
    with_keks(&place.settings(), async |keks, deadline| {
        let kek = uri(&kek);
        let both = [keks.unwrap(&kek, &wrapped, deadline), keks.unwrap(&kek, &wrapped, deadline)];
        let [first, second] = join_all(both).await.try_into().ok().unwrap();
        let third = keks.unwrap(&kek, &wrapped, Deadline::after(Duration::ZERO)).await;
        let [first, second, third] = [first, second, third].map(|key| key.ok().unwrap());
        assert!(Rc::ptr_eq(&first, &second) && Rc::ptr_eq(&first, &third));
    });
}

fn serves_many_at_the_same_time(place: &dyn Place) {
    let [kek, other] = place.keks();
    let wrapped: Vec<_> =
        (0..24).map(|index| wrapped(&seal(place, if index % 3 == 0 { &other } else { &kek }, REFERENCE))).collect();
    let opened = with_keks(&place.settings(), async |keks, deadline| {
        let one = async |(index, wrapped): (usize, &Vec<u8>)| {
            keks.unwrap(&uri(if index % 3 == 0 { &other } else { &kek }), wrapped, deadline).await
        };
        Ok::<_, KekError>(join_all(wrapped.iter().enumerate().map(one)).await)
    });
    let keys: Vec<_> =
        opened.ok().unwrap().into_iter().map(|key| key.ok().unwrap().data_key.serialized().to_vec()).collect();
    assert!(keys.iter().enumerate().all(|(at, key)| !keys[..at].contains(key)), "an answer went to the wrong call");
}

fn tells_what_it_can_do(place: &dyn Place) {
    for kek in place.keks() {
        let abilities = with_keks(&place.settings(), async |keks, deadline| keks.describe(&uri(&kek), deadline).await);
        let abilities = abilities.map_err(|error| report::chain(&error)).unwrap();
        assert!(abilities.wrap && abilities.unwrap, "{kek}");
    }
    let error = unwrap("keks = []", &place.keks()[0], b"x").unwrap_err();
    assert_eq!(error.class(), Class::NotPermitted, "{}", report::chain(&error));
}

fn seal(place: &dyn Place, kek: &str, reference: &str) -> String {
    let (secret, reference): (_, Reference) = (Secret::new(SECRET.to_vec()), reference.parse().unwrap());
    let sealed = with_keks(&place.settings(), async |keks, deadline| {
        SealedValue::seal(&secret, uri(kek), &reference, keks, deadline).await
    });
    sealed.unwrap_or_else(|source| panic!("{}", report::chain(&source))).to_string()
}

fn unseal(place: &dyn Place, line: &str, reference: &str) -> Result<Vec<u8>, SealError> {
    let reference: Reference = reference.parse().unwrap();
    let unsealed = with_keks(&place.settings(), async |keks, deadline| {
        line.parse::<SealedValue>()?.unseal(&reference, keks, deadline).await
    });
    unsealed.map(|unsealed| unsealed.secret.expose().to_vec())
}

fn unwrap(settings: &str, kek: &str, wrapped: &[u8]) -> Result<Vec<u8>, KekError> {
    let unwrapped = with_keks(settings, async |keks, deadline| keks.unwrap(&uri(kek), wrapped, deadline).await);
    unwrapped.map(|unwrapped| unwrapped.data_key.serialized().to_vec())
}

fn with_keks<T>(settings: &str, work: impl AsyncFnOnce(&Keks<'_>, Deadline) -> T) -> T {
    let settings: Settings = settings.parse().unwrap_or_else(|error| panic!("{error}: {settings}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { work(&Keks::new(&settings), Deadline::after(DEADLINE)).await })
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
