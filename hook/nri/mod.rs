//! A plugin of the Node Resource Interface (NRI), by which containerd and CRI-O call the hook without a change of their settings.
//!
//! ```text
//! runtime ── a socket ──► trunk ──► ttrpc ──► calls ──► plugin ──► injection: the hook and the requests for a container
//!                         connection          api             └──► pods: which container belongs to which pod
//! ```
//!
//! [`trunk`], [`ttrpc`], [`api`], [`calls`] and [`connection`] are NRI itself, and know nothing of secrets. Start reading at
//! [`connection`]. [`service`] keeps the plugin registered.
//!
//! NRI fails open: a runtime that gets no answer creates the container without the plugin. `packaging/docs/kubernetes.md` lists what closes
//! this gap.

pub mod api;
pub mod calls;
pub mod connection;
pub mod error;
pub mod injection;
mod plugin;
pub mod pods;
pub mod service;
pub mod state;
pub mod trunk;
pub mod ttrpc;

pub use self::pods::{Placed, Pod, Pods};
pub use self::service::start;
pub use self::state::{Runtime, Snapshot, State};
