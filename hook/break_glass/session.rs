//! A session: the lock, the ledger and the channel of break-glass, each opened once.

use super::BreakGlassError;
use super::channel::{Channel, ChannelError, Event};
use super::ledger::Ledger;
use super::lock::Locked;
use super::store::{Account, Emergency, StoreError};
use crate::secret::Secret;
use crate::settings::Settings;
use std::time::Duration;

/// Exclusive access to the state of break-glass. Other processes that would change it wait until the session ends.
pub struct Session<'a> {
    pub(super) settings: &'a Settings,
    pub(super) lock: Locked,
    pub(super) ledger: Ledger,
    /// Opened by the first record: a session that records nothing needs no working channel.
    channel: Option<Channel<'a>>,
}

impl<'a> Session<'a> {
    /// Waits for the lock, and reads the ledger.
    ///
    /// # Errors
    /// If other processes hold the lock for too long, or the directory or the ledger cannot be used.
    pub async fn begin(settings: &'a Settings) -> Result<Session<'a>, BreakGlassError> {
        let lock = Locked::take(&settings.break_glass.directory).await?;
        let ledger = Ledger::read(lock.directory())?;
        Ok(Session { settings, lock, ledger, channel: None })
    }

    /// Opens the channel, and records nothing yet.
    ///
    /// # Errors
    /// If the settings name none, or it cannot be opened.
    pub fn open_channel(&mut self) -> Result<&mut Channel<'a>, ChannelError> {
        let channel = match self.channel.take() {
            Some(channel) => channel,
            None => Channel::open(self.settings, &self.lock)?,
        };
        Ok(self.channel.insert(channel))
    }

    /// Writes one record to the channel, and returns when the channel has accepted it.
    ///
    /// # Errors
    /// If the channel does not accept the record. Then the recorded action must not be taken.
    pub async fn record(&mut self, event: Event<'_>) -> Result<(), ChannelError> {
        self.open_channel()?;
        let Session { channel: Some(channel), lock, .. } = self else { return Err(ChannelError::None) };
        channel.record(lock, event).await
    }

    /// Records that an emergency is opened, and opens it.
    ///
    /// # Errors
    /// If one is open already, or it cannot be recorded or opened.
    pub async fn open_emergency(
        &mut self,
        account: Account,
        duration: Duration,
        secrets: &[Secret],
    ) -> Result<Emergency, BreakGlassError> {
        if Emergency::current()?.is_some() {
            return Err(StoreError::IsOpen.into());
        }
        self.record(Event::Open {
            emergency: &account.id,
            file: &account.file,
            reason: &account.reason,
            ticket: account.ticket.as_deref(),
            operators: &account.operators,
            until: account.until,
            secrets: &account.secrets,
        })
        .await?;
        Ok(Emergency::open(&self.lock, account, duration, secrets)?)
    }
}
