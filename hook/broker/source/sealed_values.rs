//! Sealed values for an outage: what the source returned last, within the time that the settings allow.
//!
//! The index in memory says what is on disk, so that a start without an outage reads no file. What the source refuses is removed before the
//! refusal is returned, so that it cannot be used in an outage that follows, also after a restart.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use super::fields::{may_be_kept, revokes};
use super::log;
use super::sealed_files::{SealedFile, SealedFiles, SealedFilesError, VALUE_BYTES_MAX};
use crate::reference::Reference;
use crate::report;
use crate::seal::is_sealed;
use crate::settings::Outage;
use crate::source::{Earlier, Field, SourceError};

/// The most values that are stored.
const VALUES_MAX: usize = 4096;

/// The most bytes that are stored.
const BYTES_MAX: usize = 16 * 1024 * 1024;

/// The same value is written again after this time, so that its age is known to within a minute.
const WRITE_AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(60);

/// How far the clock may have been set back since a value was fetched.
const SKEW: SignedDuration = SignedDuration::from_secs(60);

/// The sealed values of one source.
pub struct SealedValues {
    files: SealedFiles,
    source: String,
    valid_for: Duration,
    index: Mutex<HashMap<Reference, Stored>>,
    /// Held while files are changed, so that an older change does not follow a newer one.
    changing: Mutex<()>,
    number: AtomicU64,
    has_warned: AtomicBool,
    pub(super) written: AtomicU64,
    pub(super) removed: AtomicU64,
}

/// What is on disk for a reference, or will be in a moment.
#[derive(Clone)]
struct Stored {
    fetched: Timestamp,
    /// When it was asked for, by this process.
    at: Option<Instant>,
    version: Option<u64>,
    digest: [u8; 32],
    bytes: usize,
    /// The number of the change that wrote it.
    change: u64,
}

/// A value that is to be written.
pub struct Change {
    reference: Reference,
    file: SealedFile,
    number: u64,
    /// The references whose values make room for it.
    oldest: Vec<Reference>,
}

impl SealedValues {
    /// Reads what is stored, if the settings allow its use. A directory that cannot be used is logged, and nothing is used of it.
    pub fn open(settings: &Outage, source: &str) -> Option<SealedValues> {
        let values = SealedValues {
            files: SealedFiles::new(&settings.directory),
            source: source.to_owned(),
            valid_for: settings.sealed_values_for?,
            index: Mutex::default(),
            changing: Mutex::default(),
            number: AtomicU64::new(1),
            has_warned: AtomicBool::new(false),
            written: AtomicU64::new(0),
            removed: AtomicU64::new(0),
        };
        match values.files.remove_incomplete().and_then(|()| values.files.list()) {
            Ok(files) => {
                let ours = files.into_iter().filter(|file| file.source == source && is_sealed(&file.value));
                let stored = ours.filter_map(|file| Some((file.reference.parse().ok()?, Stored::of(&file, None, 0))));
                lock(&values.index).extend(stored);
                values.remove_expired();
            }
            Err(error) => values.warn(&error),
        }
        Some(values)
    }

    /// Whether there is a value for a reference that may be used in an outage.
    pub fn has(&self, reference: &Reference) -> bool {
        reference.query().is_none()
            && lock(&self.index).get(reference).is_some_and(|stored| self.is_valid(stored.fetched))
    }

    /// The value for a reference, to be used in an outage.
    pub fn read(&self, reference: &Reference) -> Option<Field> {
        if !self.has(reference) {
            return None;
        }
        let file = match self.files.read(reference.as_str()) {
            Ok(file) => file?,
            Err(error) => {
                self.warn(&error);
                return None;
            }
        };
        // The file may be another than the one that the index knows.
        let is_usable = file.source == self.source && is_sealed(&file.value) && self.is_valid(file.fetched);
        is_usable.then(|| Field {
            value: Zeroizing::new(file.value),
            item_id: file.item,
            field_id: file.field,
            version: file.item_version,
            earlier: Some(Earlier { fetched: file.fetched, start: file.fetched_for, outage: true }),
        })
    }

    /// What has to be written after the source has returned this value; none if that is on disk, or if it was asked for earlier than that. A
    /// value that may not be kept removes the one before.
    pub fn change(
        &self,
        reference: &Reference,
        field: &Field,
        (at, fetched): (Instant, Timestamp),
        start: Option<&str>,
    ) -> Option<Change> {
        if reference.query().is_some() {
            return None;
        }
        if !may_be_kept(reference, &field.value) || field.value.len() > VALUE_BYTES_MAX {
            self.remove(|known| known == reference);
            return None;
        }
        let mut file = SealedFile::new(&self.source, reference.as_str(), &field.value);
        file.fetched = fetched;
        (file.item, file.field, file.item_version) = (field.item_id.clone(), field.field_id.clone(), field.version);
        file.fetched_for = start.map(str::to_owned);
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let new = Stored::of(&file, Some(at), number);
        let mut index = lock(&self.index);
        let is_current = |old: &Stored| {
            (old.digest, old.version) == (new.digest, new.version)
                && fetched.duration_since(old.fetched) < WRITE_AGAIN_AFTER
        };
        if index.get(reference).is_some_and(|old| old.at > Some(at) || is_current(old)) {
            return None;
        }
        let has_changed = index.get(reference).is_some_and(|old| old.digest != new.digest);
        index.insert(reference.clone(), new);
        let oldest = make_room(&mut index, reference);
        drop(index);
        if has_changed {
            self.remove_file(reference);
        }
        Some(Change { reference: reference.clone(), file, number, oldest })
    }

    /// Writes a value, unless it was replaced or removed since.
    pub fn write(&self, change: &Change) {
        let _turn = lock(&self.changing);
        let is_current = lock(&self.index).get(&change.reference).is_some_and(|stored| stored.change == change.number);
        if !is_current {
            return;
        }
        let oldest = change.oldest.iter().map(Reference::as_str);
        match self.files.write(&change.file).and_then(|()| self.files.remove(oldest)) {
            Ok(()) => {
                self.written.fetch_add(1, Ordering::Relaxed);
                self.has_warned.store(false, Ordering::Relaxed);
            }
            Err(error) => {
                lock(&self.index).remove(&change.reference);
                self.warn(&error);
                // An older value must not stay in its place.
                let _ = self.files.remove([change.reference.as_str()]);
            }
        }
    }

    /// Removes the value that a newer one replaces before the newer one is used: it must not come back if this process is killed now.
    fn remove_file(&self, reference: &Reference) {
        let _turn = lock(&self.changing);
        if let Err(error) = self.files.remove([reference.as_str()]) {
            self.warn(&error);
        }
    }

    /// Removes what a refusal revokes, and returns when it is gone.
    pub fn refused(&self, refused: &Reference, refusal: &SourceError) {
        self.remove(|known| revokes(refusal, refused, known));
    }

    /// Forgets what is stored. What is being written meanwhile is on the disk when this returns, or is not written.
    pub fn forget(&self) {
        let _turn = lock(&self.changing);
        lock(&self.index).clear();
    }

    /// Removes what is too old to be used.
    pub fn remove_expired(&self) {
        let expired: Vec<Reference> = {
            let index = lock(&self.index);
            let expired = index.iter().filter(|(_, stored)| !self.is_valid(stored.fetched));
            expired.map(|(reference, _)| reference.clone()).collect()
        };
        if !expired.is_empty() {
            self.remove(|known| expired.contains(known));
        }
    }

    /// The number of values that may be used, and when the oldest of them was fetched.
    pub fn summary(&self) -> (usize, Option<Timestamp>) {
        let index = lock(&self.index);
        let valid = || index.values().map(|stored| stored.fetched).filter(|fetched| self.is_valid(*fetched));
        (valid().count(), valid().min())
    }

    fn remove(&self, matches: impl Fn(&Reference) -> bool) {
        let removed: Vec<Reference> =
            lock(&self.index).extract_if(|known, _| matches(known)).map(|(known, _)| known).collect();
        if removed.is_empty() {
            return;
        }
        let _turn = lock(&self.changing);
        // One that was fetched again meanwhile is new.
        let gone: Vec<&Reference> = {
            let index = lock(&self.index);
            removed.iter().filter(|reference| !index.contains_key(*reference)).collect()
        };
        self.removed.fetch_add(gone.len() as u64, Ordering::Relaxed);
        if let Err(error) = self.files.remove(gone.into_iter().map(Reference::as_str)) {
            self.warn(&error);
        }
    }

    fn is_valid(&self, fetched: Timestamp) -> bool {
        let age = Timestamp::now().duration_since(fetched);
        age >= -SKEW && Duration::try_from(age.max(SignedDuration::ZERO)).is_ok_and(|age| age <= self.valid_for)
    }

    /// Logs a problem once until a value is written again.
    fn warn(&self, error: &SealedFilesError) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            log::warn(&report::chain(error));
        }
    }
}

impl Stored {
    fn of(file: &SealedFile, at: Option<Instant>, change: u64) -> Stored {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, file.value.as_bytes()).as_ref());
        let (fetched, version, bytes) = (file.fetched, file.item_version, file.value.len());
        Stored { fetched, at, version, digest: hash, bytes, change }
    }
}

/// Forgets the oldest values, but not this one, until the rest is within the bounds.
fn make_room(index: &mut HashMap<Reference, Stored>, new: &Reference) -> Vec<Reference> {
    let mut bytes: usize = index.values().map(|stored| stored.bytes).sum();
    let mut gone = Vec::new();
    while index.len() > VALUES_MAX || bytes > BYTES_MAX {
        let others = index.iter().filter(|(reference, _)| *reference != new);
        let Some(oldest) = others.min_by_key(|(_, stored)| stored.fetched).map(|(reference, _)| reference.clone())
        else {
            break;
        };
        bytes -= index.remove(&oldest).map_or(0, |stored| stored.bytes);
        gone.push(oldest);
    }
    gone
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use tempfile::TempDir;

    use super::*;
    use crate::settings::Settings;
    use crate::token::Origin;

    const SOURCE: &str = "https://connect";
    const DB: &str = "op://v/db/password";

    struct Site(TempDir);

    impl Site {
        fn new() -> Site {
            Site(tempfile::tempdir().unwrap())
        }

        fn open(&self) -> SealedValues {
            self.open_for(SOURCE)
        }

        fn open_for(&self, source: &str) -> SealedValues {
            let text = format!("[outage]\nsealed-values-for = '1h'\ndirectory = {:?}", self.0.path().join("sealed"));
            SealedValues::open(&text.parse::<Settings>().unwrap().outage, source).unwrap()
        }

        fn files(&self) -> usize {
            fs::read_dir(self.0.path().join("sealed")).map_or(0, Iterator::count)
        }
    }

    fn reference(text: &str) -> Reference {
        text.parse().unwrap()
    }

    fn field(value: &str, version: u64) -> Field {
        let value = Zeroizing::new(value.to_owned());
        let (item_id, field_id) = (Some("i".into()), Some("f".into()));
        Field { value, item_id, field_id, version: Some(version), earlier: None }
    }

    fn sealed(number: u32) -> String {
        format!("sealed:v1 local-kek:trial {number:04}")
    }

    fn store(values: &SealedValues, text: &str, field: &Field, fetched: Timestamp) -> bool {
        let change = values.change(&reference(text), field, (Instant::now(), fetched), Some("0123"));
        change.iter().for_each(|change| values.write(change));
        change.is_some()
    }

    fn found(values: &SealedValues, text: &str) -> Option<String> {
        let field = values.read(&reference(text))?;
        assert!(field.earlier.as_ref().unwrap().outage);
        Some(field.value.to_string())
    }

    fn ago(minutes: i64) -> Timestamp {
        Timestamp::now() - SignedDuration::from_mins(minutes)
    }

    #[test]
    fn survives_a_restart() {
        let site = Site::new();
        assert!(store(&site.open(), DB, &field(&sealed(1), 3), ago(10)));
        let values = site.open();
        let read = values.read(&reference(DB)).unwrap();
        assert_eq!((&**read.value, read.item_id.as_deref(), read.version), (&*sealed(1), Some("i"), Some(3)));
        assert_eq!(read.field_id.as_deref(), Some("f"));
        let earlier = read.earlier.unwrap();
        assert_eq!(earlier.start.as_deref(), Some("0123"));
        assert!(Timestamp::now().duration_since(earlier.fetched) >= SignedDuration::from_mins(10));
        assert_eq!(values.summary().0, 1);
    }

    #[test]
    fn uses_no_value_beyond_its_time_or_of_another_source() {
        let site = Site::new();
        let values = site.open();
        store(&values, DB, &field(&sealed(1), 1), ago(61));
        assert_eq!(found(&values, DB), None);
        store(&values, "op://v/future/f", &field(&sealed(1), 1), ago(-5));
        assert_eq!(found(&values, "op://v/future/f"), None, "the clock was wrong then or is now");
        assert_eq!((site.open().summary().0, site.files()), (0, 0), "they are removed");
        store(&values, DB, &field(&sealed(1), 1), ago(59));
        assert_eq!(found(&site.open(), DB), Some(sealed(1)));
        assert_eq!(found(&site.open_for("https://other"), DB), None);
    }

    #[test]
    fn stores_ciphertext_only() {
        let site = Site::new();
        let values = site.open();
        assert!(!store(&values, DB, &field("canary", 1), ago(0)));
        assert!(!store(&values, "op://v/db/code?attribute=otp", &field(&sealed(1), 1), ago(0)));
        assert_eq!(site.files(), 0);
        store(&values, DB, &field(&sealed(1), 1), ago(0));
        store(&values, DB, &field("canary", 2), ago(0));
        assert_eq!((site.files(), found(&values, DB)), (0, None), "the sealed value is not current any more");
    }

    #[test]
    fn a_planted_plain_value_is_not_used() {
        let site = Site::new();
        let values = site.open();
        store(&values, DB, &field(&sealed(1), 1), ago(0));
        let path = fs::read_dir(site.0.path().join("sealed")).unwrap().next().unwrap().unwrap().path();
        let text = fs::read_to_string(&path).unwrap().replace(&sealed(1), "planted");
        fs::write(&path, text).unwrap();
        assert_eq!((found(&values, DB), found(&site.open(), DB)), (None, None));
    }

    #[test]
    fn an_unchanged_value_is_written_once_a_minute() {
        let site = Site::new();
        let values = site.open();
        assert!(store(&values, DB, &field(&sealed(1), 1), ago(3)));
        assert!(!store(&values, DB, &field(&sealed(1), 1), ago(3)));
        assert!(store(&values, DB, &field(&sealed(1), 1), ago(1)));
        assert!(store(&values, DB, &field(&sealed(1), 2), ago(1)), "a newer version");
        assert!(store(&values, DB, &field(&sealed(2), 2), ago(1)), "a newer value");
    }

    #[test]
    fn an_older_answer_does_not_replace_a_newer_one() {
        let site = Site::new();
        let (values, early) = (site.open(), Instant::now());
        store(&values, DB, &field(&sealed(2), 2), ago(0));
        assert!(values.change(&reference(DB), &field(&sealed(1), 1), (early, ago(0)), None).is_none());
        assert_eq!(found(&values, DB), Some(sealed(2)));
    }

    #[test]
    fn a_replaced_value_is_gone_before_the_new_one_is_written() {
        let site = Site::new();
        let values = site.open();
        store(&values, DB, &field(&sealed(1), 1), ago(0));
        let change = values.change(&reference(DB), &field(&sealed(2), 2), (Instant::now(), ago(0)), None).unwrap();
        // As if the process were killed here.
        assert_eq!(found(&site.open(), DB), None);
        values.write(&change);
        assert_eq!(found(&site.open(), DB), Some(sealed(2)));
    }

    #[test]
    fn a_refusal_removes_and_a_late_write_does_not_bring_back() {
        let site = Site::new();
        let values = site.open();
        store(&values, DB, &field(&sealed(1), 1), ago(0));
        store(&values, "op://w/db/password", &field(&sealed(1), 1), ago(0));
        let asked = (Instant::now(), ago(0));
        let late = values.change(&reference("op://v/db/user"), &field(&sealed(2), 1), asked, None).unwrap();
        let forbidden = SourceError::Forbidden { what: "v".into(), origin: Origin::Static("/t".into()) };
        values.refused(&reference(DB), &forbidden);
        values.write(&late);
        let left = site.open();
        assert_eq!((found(&left, DB), found(&left, "op://v/db/user")), (None, None));
        assert_eq!(found(&left, "op://w/db/password"), Some(sealed(1)));
        let silent = SourceError::NoAnswer { server: "s".into(), within: Duration::ZERO, tries: 1 };
        values.refused(&reference("op://w/db/password"), &silent);
        assert_eq!(values.summary().0, 1);
    }

    #[test]
    fn is_bounded() {
        let (mut index, now) = (HashMap::new(), Timestamp::now());
        let file = |value: &str, age: i64| {
            let mut file = SealedFile::new(SOURCE, DB, value);
            file.fetched = now - SignedDuration::from_secs(age);
            Stored::of(&file, None, 0)
        };
        let name = |number: usize| reference(&format!("op://v/{number}/f"));
        for number in 0..=VALUES_MAX {
            index.insert(name(number), file("v", number as i64));
        }
        assert_eq!(make_room(&mut index, &name(0)), [name(VALUES_MAX)], "the oldest");
        let large = "x".repeat(VALUE_BYTES_MAX);
        for number in 0..=BYTES_MAX / VALUE_BYTES_MAX {
            index.insert(name(number), file(&large, number as i64));
        }
        make_room(&mut index, &name(0));
        assert!(index.values().map(|stored| stored.bytes).sum::<usize>() <= BYTES_MAX && index.contains_key(&name(0)));
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_ignored() {
        let site = Site::new();
        let values = site.open();
        store(&values, DB, &field(&sealed(1), 1), ago(0));
        let directory = site.0.path().join("sealed");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        assert_eq!((found(&values, DB), site.open().summary().0), (None, 0));
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(found(&values, DB), Some(sealed(1)));
    }
}
