//! Secrets for containers, delivered by an OCI `createRuntime` hook.
//!
//! A container's annotations *request* files; the host's settings *grant* them; 1Password holds each value *sealed* under a key
//! of a KMS or HSM; the hook resolves, unseals and delivers them on a read-only tmpfs that exists only in the container's mount
//! namespace. The way of the data, and with it the order in which to read the modules:
//!
//! ```text
//! state ─► spec ─► requests ─► grants ─► source ─► sealed values ─► KEK ─► secrets ─► detached tmpfs ─► container
//!          container/          settings/ source/                    seal/             deliver/
//! ```
//!
//! Six programs share these modules:
//!
//! | program | what it does | start to read at |
//! |---|---|---|
//! | `oci-secrets-hook` | delivers the secrets of one container start | [`hook`] |
//! | `oci-secrets-broker` | resolves on behalf of the hooks of a host | [`broker`] |
//! | `oci-secrets` | seals, checks and explains, for operators and developers | [`cli`] |
//! | `oci-secrets-runtime` | adds the hook to the containers of engines without hooks, then runs the real runtime | [`runtime`] |
//! | `oci-secrets-gateway` | lets CI jobs read the vault items that its rules name | [`gateway`] |
//! | `oci-secrets-pkcs11` | loads a PKCS#11 module in a process of its own | [`pkcs11::helper`] |
//!
//! [`hook`] reads as the story of one container start. A module uses only modules of lower layers; the layers
//! and the test that keeps them are in `tests/layers.rs`.

pub mod audit;
pub mod break_glass;
pub mod broker;
pub mod child;
pub mod cli;
pub mod container;
pub mod deliver;
pub mod dns;
pub mod engine;
pub mod envrc;
pub mod errno;
pub mod excerpt;
pub mod fault;
pub mod gateway;
pub mod harden;
pub mod hex;
pub mod hook;
pub mod http_client;
pub mod json;
pub mod kubernetes;
pub mod monitoring;
pub mod nearest;
pub mod nri;
pub mod pkcs11;
pub mod reference;
pub mod refusals;
pub mod report;
pub mod resolve;
pub mod retry;
pub mod run_directory;
pub mod runtime;
pub mod seal;
pub mod secret;
pub mod settings;
pub mod source;
pub mod start;
pub mod syslog;
pub mod systemd;
pub mod template;
pub mod tls;
pub mod token;
pub mod whole_file;
