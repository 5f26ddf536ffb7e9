//! The container as its runtime has created it, before its delivery.

use super::error::HookError;
use crate::container::{Owner, Process, Spec, SpecError, State};
use crate::deliver::{Carried, CarryError, preflight};
use crate::fault::AnyFault;

/// What a delivery needs of a container that is being created, by descriptor.
pub(super) struct Created {
    pub(super) process: Process,
    pub(super) spec: Spec,
    pub(super) carried: Carried,
    /// Who will own the files, in ids of our own user namespace.
    pub(super) owner: Owner,
}

impl Created {
    /// Finds it. The files are for this owner, else for the user of the spec. `None` if another entry of the spec's hooks has delivered.
    pub(super) fn find(
        state: &State,
        spec: Result<Spec, SpecError>,
        owner: Option<Owner>,
    ) -> Result<Option<Created>, AnyFault> {
        let process = Process::open(state.pid()?)?;
        let spec = spec?;
        preflight(&spec)?;
        let carried = match Carried::find(&process, &spec.rootfs) {
            Err(CarryError::Delivered) if spec.hooks.deliveries().len() > 1 => return Ok(None),
            found => found?,
        };
        let owner = process.host_owner(owner.or(spec.user).ok_or(HookError::NoOwner)?)?;
        Ok(Some(Created { process, spec, carried, owner }))
    }
}
