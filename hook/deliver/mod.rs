//! The delivery: a tmpfs that is filled and made read-only while nothing leads to it, then attached inside the container.
//!
//! ```text
//! Carried::find ─► Frozen::filled or Frozen::received ─► Frozen::attach
//! ```
//!
//! The types keep the order: what the container already has at the target is found first, because the tmpfs needs an entry for each of its
//! mounts; only a [`Frozen`] delivery can be attached, and a frozen one takes no more files. Until it is attached the tmpfs has no path
//! anywhere, and dropping the descriptor destroys the files; afterwards it exists as long as the container's mount namespace. On the host
//! there is never a path that leads to a secret, and a container sees all of its files, and still all that it had, or does not start. The
//! broker fills on behalf of the hook, and sends the mount. [`Frozen::attach_at`] mounts it for the calling process instead, once that is
//! [`Private`].
//!
//! Kernel features, by their first version:
//!
//! | feature | Linux | without it |
//! |---|---|---|
//! | `fsopen`, `fspick`, `fsconfig`, `fsmount`, `move_mount`, `open_tree` | 5.2 | an error |
//! | `openat2`, `pidfd_open` | 5.6, 5.3 | an error |
//! | `MOVE_MOUNT_BENEATH`; with mounts that are carried over, mounting on a mount without a path | 6.5; 6.15 | no [`Frozen::replace`] |
//! | copies of a mount without a path | 6.15 | it is mounted for that, in a mount namespace that nothing else is in |
//! | tmpfs `noswap`, and only outside of user namespaces | 6.4 | [`noswap`](crate::settings::Noswap) in the settings decides |

mod attach;
mod carry;
mod current;
mod error;
mod frozen;
mod placeholders;
mod preflight;
mod private;
mod received;
mod remove;
mod replaceable;
mod site;
mod swap;
mod target;
mod tmpfs;

#[cfg(test)]
mod testing;

pub use carry::{Carried, CarryError};
pub use current::{Current, DeliveryId, SwapError};
pub use error::{AttachError, PreflightError};
pub use frozen::{Frozen, Hold, is_frozen};
pub use placeholders::{Placeholders, PlaceholdersError};
pub use preflight::preflight;
pub use private::{Private, PrivateError};
pub use received::ReceivedError;
pub use replaceable::{UnsupportedError, require_replace};
pub use site::{SOURCE, SiteError};
pub use swap::complete;
pub use target::{TARGET, TargetError, require_openat2};
pub use tmpfs::{DeliveryOptions, Tmpfs, TmpfsError, TmpfsOptions};
