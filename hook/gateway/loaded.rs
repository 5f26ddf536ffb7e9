//! What serves requests, made from the settings file and the files that it names.

use std::path::Path;
use std::rc::Rc;

use tokio_rustls::TlsAcceptor;

use super::error::GatewayError;
use super::issuer::Issuer;
use super::log;
use super::metrics::Metrics;
use super::record::Trail;
use super::service::Gateway;
use super::settings::{IssuerSettings, Settings};
use super::tls;
use super::upstream::Upstream;

/// One version of the settings, ready to serve.
pub struct Loaded {
    /// What serves requests.
    pub gateway: Gateway,
    /// The server certificate.
    pub tls: TlsAcceptor,
}

impl Loaded {
    /// Loads a settings file. Issuers whose settings are unchanged keep their cache of keys.
    ///
    /// # Errors
    /// The settings, or a file that they name, cannot be used.
    pub fn new(path: &Path, issuers: &[Rc<Issuer>], metrics: &Rc<Metrics>) -> Result<Loaded, GatewayError> {
        let settings = Settings::load(path)?;
        let tls = tls::acceptor(&settings.tls)?;
        let upstream = Upstream::open(&settings.connect)?;
        let trail = Trail::open(settings.audit.file.as_deref(), settings.audit.stdout)
            .map_err(|source| GatewayError::Audit { source })?;
        let unchanged = |wanted: &IssuerSettings| issuers.iter().find(|issuer| issuer.settings == *wanted).cloned();
        let issuers = settings.issuers.iter().map(|wanted| match unchanged(wanted) {
            Some(issuer) => Ok(issuer),
            None => Issuer::new(wanted.clone()).map(Rc::new),
        });
        let issuers = issuers.collect::<Result<_, _>>()?;
        for warning in settings.warnings() {
            log::note(&warning);
        }
        Ok(Loaded { gateway: Gateway::new(settings, issuers, upstream, trail, Rc::clone(metrics)), tls })
    }
}
