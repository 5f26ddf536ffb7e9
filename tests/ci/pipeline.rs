//! The services that a pipeline uses.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::host::run;
use crate::support::machine::Machine;
use crate::support::moto::Moto;
use crate::support::{AGENT_VAULT, StandIn, program, with_mode};

/// The secret of the container.
pub(crate) const SECRET: &str = "canary-of-the-pipeline";

/// The names in `config/ci`, and the provider of the stand-in.
pub(crate) const PROVIDER: &str = "projects/123456789012/locations/global/workloadIdentityPools/ci/providers/jobs";
pub(crate) const STAND_IN_PROVIDER: &str =
    "projects/123456/locations/global/workloadIdentityPools/stand-in/providers/stand-in";
pub(crate) const GATEWAY: &str = "https://secrets.acme.example";
const GATEWAY_ADDRESS: &str = "127.0.0.1:8443";
const KEK: &str = "gcp-kms://projects/acme/locations/europe-west1/keyRings/agents/cryptoKeys/prod";
/// The KEK for AWS in `config/ci`, which moto provides.
const AWS_KEK: &str = "aws-kms://arn:aws:kms:eu-central-1:123456789012:alias/agents/prod";
const AWS_ADDRESS: &str = "127.0.0.2";
const REFERENCE: &str = "op://AgentVault/deploy/db-password";

/// Issuers, a gateway that trusts them, 1Password with a sealed value, and Google.
pub(crate) struct Pipeline {
    pub(crate) stand_in: StandIn,
    machine: Machine,
    directory: TempDir,
    gateway: Child,
}

impl Pipeline {
    /// Moves this thread into new namespaces; `None` if that is not possible.
    pub(crate) fn start() -> Option<Pipeline> {
        let machine = Machine::enter()?;
        let directory = tempfile::Builder::new().prefix("pipeline").tempdir().unwrap();
        let dir = directory.path().to_str().unwrap();
        let stand_in = StandIn::start(&["--dir", dir, "--tls", "--kms-auth", "--identity-port", "443"]);
        machine.trust(&stand_in.ca_file().unwrap());
        for name in ["sts.googleapis.com", "iamcredentials.googleapis.com", "secrets.acme.example"] {
            machine.name(name, "127.0.0.1");
        }
        let authority = gateway_files(&directory, &stand_in);
        machine.trust(&authority);
        let gateway = Command::new(program("oci-secrets-gateway"))
            .env_clear()
            .arg("--settings")
            .arg(directory.path().join("gateway.toml"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut pipeline = Pipeline { stand_in, machine, directory, gateway };
        while TcpStream::connect(GATEWAY_ADDRESS).is_err() {
            assert!(pipeline.gateway.try_wait().unwrap().is_none(), "the gateway has ended");
            std::thread::yield_now();
        }
        pipeline.store();
        Some(pipeline)
    }

    /// Seals and stores the secret, as a developer does on another machine.
    fn store(&self) {
        self.store_by(KEK, &self.kms_settings());
    }

    fn store_by(&self, kek: &str, identity: &str) {
        let path = self.directory.path().join("developer.toml");
        with_mode(&path, format!("keks = [\"{kek}\"]\n{identity}").as_bytes(), 0o600);
        let mut seal = Command::new(program("oci-secrets"));
        seal.env_clear().arg("--settings").arg(path).args(["seal", "--kek", kek, "--for", REFERENCE]);
        let sealed = run(&mut seal, SECRET.as_bytes());
        assert!(sealed.status.success(), "{}", String::from_utf8_lossy(&sealed.stderr));
        let sealed = String::from_utf8(sealed.stdout).unwrap();
        self.stand_in.create_item(AGENT_VAULT, "deploy", &[("", "db-password", sealed.trim_end())]);
    }

    /// The settings for Google's KMS and credentials.
    pub(crate) fn kms_settings(&self) -> String {
        let credentials = self.directory.path().join("external-account-file.json");
        format!("[gcp-kms]\nendpoint = \"{}\"\ncredentials-file = {credentials:?}\n", self.stand_in.kms())
    }

    /// Starts moto, and stores the secret under its KEK; `None` without moto.
    pub(crate) fn start_aws(&self) -> Option<Moto> {
        for service in ["kms", "sts"] {
            self.machine.name(&format!("{service}.eu-central-1.amazonaws.com"), AWS_ADDRESS);
        }
        let (log, pem) = (self.directory.path().join("aws-log"), self.directory.path().join("server.pem"));
        let [log, pem] = [&log, &pem].map(|path| path.to_str().unwrap());
        let moto = Moto::start(&["--https", &format!("{AWS_ADDRESS}:443"), pem, "--log", log])?;
        assert_eq!(moto.keks()[0], AWS_KEK);
        let token = self.directory.path().join("subject-token");
        let role = "role-arn = \"arn:aws:iam::123456789012:role/developers\"\nregion = \"eu-central-1\"";
        self.stand_in.request("POST", "/stand-in/reset", &Value::Null);
        self.store_by(AWS_KEK, &format!("[aws-kms]\nweb-identity-token-file = {token:?}\n{role}\n"));
        fs::write(log, "").unwrap();
        Some(moto)
    }

    /// The log of requests to AWS: the service and the access key id of each.
    pub(crate) fn signed_for_aws(&self) -> String {
        fs::read_to_string(self.directory.path().join("aws-log")).unwrap()
    }

    /// The variables of a GitHub Actions job with `id-token: write`.
    pub(crate) fn github_job(&self) -> BTreeMap<String, String> {
        let url = format!("{}/request?api-version=2.0", self.stand_in.issuer("github"));
        BTreeMap::from([
            ("ACTIONS_ID_TOKEN_REQUEST_URL".to_owned(), url),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN".to_owned(), self.stand_in.request_token().to_owned()),
        ])
    }

    /// The identity tokens of this GitLab CI job.
    pub(crate) fn gitlab_job(&self, job: &Value) -> BTreeMap<String, String> {
        let token = |(name, audience): (&String, &Value)| {
            let audience = audience.as_str().unwrap().replace(PROVIDER, STAND_IN_PROVIDER);
            (name.clone(), self.stand_in.mint("gitlab", &json!({ "claims": { "aud": audience } })))
        };
        job["id_tokens"].as_object().unwrap().iter().map(token).collect()
    }

    /// The gateway's audit file.
    pub(crate) fn audit(&self) -> String {
        fs::read_to_string(self.directory.path().join("gateway-audit")).unwrap_or_default()
    }

    /// Long-lived credentials, which the job must not have.
    pub(crate) fn static_credentials(&self) -> Vec<String> {
        let file = |name: &str| fs::read_to_string(self.directory.path().join(name)).unwrap();
        vec![self.stand_in.token().to_owned(), file("subject-token"), file("gateway.key")]
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        let _ = self.gateway.kill();
        let _ = self.gateway.wait();
    }
}

/// Writes the gateway's files, and returns the path of the CA certificate.
fn gateway_files(directory: &TempDir, stand_in: &StandIn) -> PathBuf {
    let path = |name: &str| directory.path().join(name);
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // With the same name, the certificate would be treated as self-signed.
    params.distinguished_name.push(DnType::CommonName, "authority of the gateway");
    let key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&key).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["secrets.acme.example".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    with_mode(&path("gateway-authority.pem"), authority.pem().as_bytes(), 0o644);
    with_mode(&path("gateway.crt"), certificate.pem().as_bytes(), 0o644);
    with_mode(&path("gateway.key"), key.serialize_pem().as_bytes(), 0o600);
    with_mode(&path("gateway-connect-token"), stand_in.token().as_bytes(), 0o600);
    let rules = ["github", "gitlab"].map(|platform| {
        let repository = if platform == "github" { "repository" } else { "project_path" };
        let reference = if platform == "github" { "refs/heads/main" } else { "main" };
        let url = stand_in.issuer(platform);
        format!(
            "[[issuer]]\nurl = \"{url}\"\nkind = \"{platform}\"\naudience = \"{GATEWAY}\"\n[[rule]]\nname = \"{platform}\"\n\
             issuer = \"{url}\"\nclaims = {{ {repository} = \"acme/app\", ref = \"{reference}\" }}\n\
             references = [\"op://AgentVault/deploy/*\"]\n"
        )
    });
    let settings = format!(
        "listen = \"{GATEWAY_ADDRESS}\"\n[tls]\ncertificate-file = {:?}\nkey-file = {:?}\n[connect]\nurl = \"{}\"\n\
         token-file = {:?}\n[audit]\nfile = {:?}\n{}",
        path("gateway.crt"),
        path("gateway.key"),
        stand_in.connect(),
        path("gateway-connect-token"),
        path("gateway-audit"),
        rules.concat()
    );
    with_mode(&path("gateway.toml"), settings.as_bytes(), 0o644);
    path("gateway-authority.pem")
}
