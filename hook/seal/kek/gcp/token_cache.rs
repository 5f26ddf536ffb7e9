//! An access token of Google's that outlives the process: containers that start one after another exchange one subject token once.
//!
//! It is kept only under all of these conditions, and no call waits longer otherwise:
//!
//! - on a tmpfs, in `/run/oci-secrets`, a directory and files of root's alone, by root of the host;
//! - for one principal: the file is named by a hash of the credentials file and of the subject token in it, byte by byte;
//! - within its time: Google's client does not return how long a token lives, but one that is exchanged lives as long as its subject
//!   token, up to an hour, and one of impersonation ten minutes at the least. So it is used for five minutes, and not beyond what the
//!   subject token says of itself.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use google_cloud_auth::credentials::{CacheableResource, Credentials, CredentialsProvider, EntityTag};
use google_cloud_auth::errors::CredentialsError;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use ring::digest;
use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::hex::hex;
use crate::run_directory;

/// How long a token is used again.
const AGE_MAX: Duration = Duration::from_secs(5 * 60);

/// How far clocks may be apart.
const SKEW: Duration = Duration::from_secs(30);

const FILE_BYTES_MAX: u64 = 64 * 1024;

/// Credentials whose access token is remembered.
#[derive(Clone)]
pub(super) struct TokenCache(Arc<Inner>);

struct Inner {
    /// Makes the credentials that get a new token. From that moment on they do, whether it is asked for or not.
    make: Box<dyn Fn() -> Option<Credentials> + Send + Sync>,
    fresh: OnceLock<Credentials>,
    place: Option<Place>,
    known: Mutex<Option<(EntityTag, HeaderMap)>>,
}

/// Where the token of one principal is, and until when a new one may be used.
#[derive(Debug)]
struct Place {
    directory: OwnedFd,
    name: String,
    until: u64,
}

/// The file.
#[derive(Serialize, Deserialize)]
struct Kept {
    until: u64,
    headers: BTreeMap<String, Zeroizing<String>>,
}

impl TokenCache {
    /// Remembers tokens for credentials, as a file has them, and the subject token that it names. They are made at once if there is
    /// nothing to remember, so that what is wrong with them is found.
    pub(super) fn new(
        make: impl Fn() -> Option<Credentials> + Send + Sync + 'static,
        credentials_file: &[u8],
        subject_token: &[u8],
    ) -> Option<TokenCache> {
        let place = Place::of(credentials_file, subject_token);
        let known = place.as_ref().and_then(Place::read).map(|headers| (EntityTag::new(), headers));
        let inner = Inner { make: Box::new(make), fresh: OnceLock::new(), place, known: Mutex::new(known) };
        let remembered = TokenCache(Arc::new(inner));
        (remembered.known().is_some() || remembered.fresh().is_some()).then_some(remembered)
    }

    fn known(&self) -> Option<(EntityTag, HeaderMap)> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn fresh(&self) -> Option<&Credentials> {
        match self.0.fresh.get() {
            Some(fresh) => Some(fresh),
            None => (self.0.make)().map(|made| self.0.fresh.get_or_init(|| made)),
        }
    }

    /// Forgets the token: the service that it is for does not take it.
    pub(super) fn forget(&self) {
        *self.0.known.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(place) = &self.0.place {
            let _ = unlinkat(&place.directory, &place.name, AtFlags::empty());
        }
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenCache")
    }
}

impl CredentialsProvider for TokenCache {
    async fn headers(&self, extensions: http::Extensions) -> Result<CacheableResource<HeaderMap>, CredentialsError> {
        if let Some((entity_tag, data)) = self.known() {
            return Ok(CacheableResource::New { entity_tag, data });
        }
        let unusable = || CredentialsError::from_msg(false, "the credentials cannot be used any more");
        let answer = self.fresh().ok_or_else(unusable)?.headers(extensions).await?;
        if let (Some(place), CacheableResource::New { data, .. }) = (&self.0.place, &answer) {
            // Not to remember costs the next start an exchange, and nothing else.
            let _ = place.write(data);
        }
        Ok(answer)
    }

    async fn universe_domain(&self) -> Option<String> {
        // The settings name the server.
        None
    }
}

impl Place {
    fn of(credentials_file: &[u8], subject_token: &[u8]) -> Option<Place> {
        let expires = expiry(subject_token)?.checked_sub(SKEW.as_secs())?;
        let until = expires.min(now() + AGE_MAX.as_secs());
        if until <= now() {
            return None;
        }
        let mut context = digest::Context::new(&digest::SHA256);
        for part in [credentials_file, subject_token] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let hash = hex(context.finish().as_ref());
        Some(Place { directory: run_directory::open()?, name: format!("gcp-token-{hash}"), until })
    }

    fn read(&self) -> Option<HeaderMap> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = File::from(openat(&self.directory, &self.name, flags, Mode::empty()).ok()?);
        let mut bytes = Zeroizing::new(Vec::new());
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        let kept: Kept = serde_json::from_slice(&bytes).ok()?;
        if kept.until <= now() {
            return None;
        }
        let headers = kept.headers.iter().map(|(name, value)| {
            let mut value = HeaderValue::from_str(value).ok()?;
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
        });
        headers.collect()
    }

    /// Writes a temporary file and renames it: a concurrent reader gets the whole old file or the whole new one.
    fn write(&self, headers: &HeaderMap) -> Option<()> {
        let headers = headers
            .iter()
            .map(|(name, value)| Some((name.as_str().to_owned(), Zeroizing::new(value.to_str().ok()?.to_owned()))));
        let kept = Kept { until: self.until, headers: headers.collect::<Option<_>>()? };
        let bytes = Zeroizing::new(serde_json::to_vec(&kept).ok()?);
        let new = format!("new-{}", std::process::id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&self.directory, &new, flags, Mode::RUSR | Mode::WUSR).ok()?;
        let renamed = File::from(file)
            .write_all(&bytes)
            .ok()
            .and_then(|()| renameat(&self.directory, &new, &self.directory, &self.name).ok());
        if renamed.is_none() {
            let _ = unlinkat(&self.directory, &new, AtFlags::empty());
        }
        renamed
    }
}

/// The expiry of a JSON web token, in seconds of Unix time. It is not verified: it can only make a token expire.
fn expiry(token: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: u64,
    }
    let claims = token.trim_ascii().split(|byte| *byte == b'.').nth(1)?;
    let claims = Zeroizing::new(BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?);
    Some(serde_json::from_slice::<Claims>(&claims).ok()?.exp)
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
