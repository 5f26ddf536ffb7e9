//! Host names, resolved in this process.
//!
//! glibc's `getaddrinfo` loads the shared libraries that `nsswitch.conf` names, even into a static program. So names are looked up in
//! `/etc/hosts`, then at the name servers of `resolv.conf`, and nowhere else: mDNS, `myhostname` and other NSS modules are not asked.
//! Google's client takes no resolver; reqwest's `hickory-dns` feature has the same effect there.

use std::error::Error;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use reqwest::dns::{Addrs, Resolve, Resolving};
use tokio::time::timeout;

const HOSTS: &str = "/etc/hosts";
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The name server of a host without `nameserver` lines (resolv.conf(5)).
const DEFAULT_SERVER: &str = "nameserver 127.0.0.1\n";

/// How long one name server has to answer before the next is asked. A try has a third of the deadline, so that 5 s, the default of
/// resolv.conf(5), would leave no time for a second server.
const SERVER_TIMEOUT_MAX: Duration = Duration::from_millis(1500);

/// Resolves host names as `/etc/hosts` and `/etc/resolv.conf` say, and reads them again after a change.
#[derive(Clone, Default)]
pub struct Resolver(Arc<Mutex<Option<Known>>>);

/// The files as they were when they were read.
type Known = (Stamp, Arc<Files>);

impl Resolver {
    /// The addresses of a host.
    ///
    /// # Errors
    /// If the name has none, or no name server answers.
    pub async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        self.files(host)?.resolve(host).await
    }

    fn files(&self, host: &str) -> Result<Arc<Files>, ResolveError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = Stamp::now();
        match &*known {
            Some((read, files)) if *read == stamp => Ok(Arc::clone(files)),
            _ => {
                let files = Arc::new(Files::read().map_err(|error| ResolveError::of(host, &error))?);
                *known = Some((stamp, Arc::clone(&files)));
                Ok(files)
            }
        }
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move { addresses(&resolver, name.as_str()).await })
    }
}

/// Resolves every name to the addresses of one host, which serves what is asked for by other names than its own.
pub struct Alias(pub String);

impl Resolve for Alias {
    fn resolve(&self, _: reqwest::dns::Name) -> Resolving {
        let host = self.0.clone();
        Box::pin(async move { addresses(&Resolver::default(), &host).await })
    }
}

async fn addresses(resolver: &Resolver, host: &str) -> Result<Addrs, Box<dyn Error + Send + Sync>> {
    let found = resolver.resolve(host).await?;
    Ok(Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0))))
}

/// Requires a name server: without one, reqwest's own resolver, which Google's client uses, asks Google's public servers.
///
/// # Errors
/// If `/etc/resolv.conf` names none.
pub fn require_name_server() -> Result<(), NoNameServer> {
    let text = fs::read(RESOLV_CONF).unwrap_or_default();
    parse_resolv_conf(text).map(drop).map_err(|_| NoNameServer)
}

/// What the two files say.
struct Files {
    hosts: Hosts,
    /// One for each name server: hickory's own pool gives all servers together the time of one.
    servers: Vec<TokioResolver>,
    timeout: Duration,
    /// The server that answered last.
    preferred: AtomicUsize,
}

impl Files {
    fn read() -> Result<Files, NetError> {
        // Where a file is missing, it says nothing.
        let (hosts, resolv_conf) = (fs::read(HOSTS).unwrap_or_default(), fs::read(RESOLV_CONF).unwrap_or_default());
        Files::parse(&hosts, &resolv_conf)
    }

    fn parse(hosts_file: &[u8], resolv_conf: &[u8]) -> Result<Files, NetError> {
        let mut hosts = Hosts::default();
        // One line that is not UTF-8 must not hide the others.
        hosts
            .read_hosts_conf(String::from_utf8_lossy(hosts_file).as_bytes())
            .map_err(|error| NetError::Io(error.into()))?;
        let with_default = || parse_resolv_conf([resolv_conf, b"\n", DEFAULT_SERVER.as_bytes()].concat());
        let (config, mut options) = parse_resolv_conf(resolv_conf).or_else(|_| with_default())?;
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        // Another try asks again: at boot, a name may not exist yet.
        options.negative_max_ttl = Some(Duration::ZERO);
        let resolver = |server: &NameServerConfig| {
            let of_one = ResolverConfig::from_parts(domain(&config), config.search().to_vec(), vec![server.clone()]);
            let mut builder = TokioResolver::builder_with_config(of_one, TokioRuntimeProvider::default());
            *builder.options_mut() = options.clone();
            builder.build()
        };
        let servers = config.name_servers().iter().map(resolver).collect::<Result<_, NetError>>()?;
        let timeout = options.timeout.min(SERVER_TIMEOUT_MAX);
        Ok(Files { hosts, servers, timeout, preferred: AtomicUsize::new(0) })
    }

    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let in_file = self.in_hosts_file(host);
        if !in_file.is_empty() {
            return Ok(in_file);
        }
        let preferred = self.preferred.load(Ordering::Relaxed);
        let mut last = ResolveError::NoAnswer { host: host.to_owned() };
        for (index, server) in self.servers.iter().enumerate().cycle().skip(preferred).take(self.servers.len()) {
            let answer = timeout(self.timeout, server.lookup_ip(host)).await.unwrap_or(Err(NetError::Timeout));
            match answer.map_err(|error| ResolveError::of(host, &error)) {
                Err(error @ (ResolveError::NoAnswer { .. } | ResolveError::Failed { .. })) => last = error,
                answer => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return answer.map(|found| found.iter().collect());
                }
            }
        }
        Err(last)
    }

    /// A name in `/etc/hosts` is not looked up elsewhere, whichever kinds of address it has there.
    fn in_hosts_file(&self, host: &str) -> Vec<IpAddr> {
        let Ok(name) = Name::from_utf8(host) else { return Vec::new() };
        let of_kind = |kind| self.hosts.lookup_static_host(&Query::query(name.to_lowercase(), kind));
        let found = [RecordType::AAAA, RecordType::A].into_iter().filter_map(of_kind);
        found
            .flat_map(|lookup| lookup.answers().iter().filter_map(|record| record.data.ip_addr()).collect::<Vec<_>>())
            .collect()
    }
}

/// The domain of this host counts only where there is no `search` (resolv.conf(5)).
fn domain(config: &ResolverConfig) -> Option<Name> {
    config.domain().cloned().filter(|_| config.search().is_empty())
}

/// By what a change of the two files is noticed.
#[derive(PartialEq, Eq)]
struct Stamp([Option<(u64, u64, i64, i64)>; 2]);

impl Stamp {
    fn now() -> Stamp {
        Stamp([HOSTS, RESOLV_CONF].map(|path| {
            let file = fs::metadata(path).ok()?;
            Some((file.dev(), file.ino(), file.mtime(), file.mtime_nsec()))
        }))
    }
}

/// Why a host has no address.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ResolveError {
    /// The name servers know no such name.
    #[error("host {host:?} does not exist")]
    NoHost {
        /// The name.
        host: String,
    },
    /// The name has records of other kinds only.
    #[error("host {host:?} has no address")]
    NoAddress {
        /// The name.
        host: String,
    },
    /// No server answered in time, or none can be reached.
    #[error("cannot look up host {host:?}: no answer from a name server")]
    NoAnswer {
        /// The name.
        host: String,
    },
    /// A name server cannot answer now.
    #[error("cannot look up host {host:?}: {cause}")]
    Failed {
        /// The name.
        host: String,
        /// What the server answered.
        cause: String,
    },
}

impl ResolveError {
    fn of(host: &str, error: &NetError) -> ResolveError {
        let host = host.to_owned();
        match error {
            error if error.is_nx_domain() => ResolveError::NoHost { host },
            error if error.is_no_records_found() => ResolveError::NoAddress { host },
            NetError::Timeout | NetError::NoConnections => ResolveError::NoAnswer { host },
            NetError::Io(error) if error.kind() == io::ErrorKind::TimedOut => ResolveError::NoAnswer { host },
            other => ResolveError::Failed { host, cause: other.to_string() },
        }
    }
}

/// Why a lookup by reqwest's own resolver, which Google's client uses, failed.
pub fn cause(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    Some(match error.downcast_ref::<NetError>()? {
        error if error.is_nx_domain() || error.is_no_records_found() => "the host does not exist, or has no address",
        NetError::Timeout | NetError::NoConnections => "no answer from a name server",
        _ => return None,
    })
}

/// There is no name server.
#[derive(Debug, thiserror::Error)]
#[error("no name server in {RESOLV_CONF}")]
pub struct NoNameServer;
