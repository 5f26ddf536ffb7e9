//! Open connections, and which of them is closed when there are too many.
//!
//! A connection is idle while no request of it with a verified token is served: in its handshake, before its request is complete,
//! while the keys of an issuer are fetched. An idle connection is never a reason to refuse a new one.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::Notify;

use super::client_network::ClientNetwork;
use super::settings::Limits;

/// All open connections.
#[derive(Default)]
pub struct Connections {
    open: RefCell<BTreeMap<u64, Open>>,
    /// Increases with each connection and each end of a request, so that it orders idle connections by age.
    clock: Cell<u64>,
    /// Signals that a connection has ended or become idle.
    changed: Notify,
}

struct Open {
    client: ClientNetwork,
    /// When it became idle; `None` while a request is served.
    idle_since: Option<u64>,
    close: Rc<Notify>,
}

impl Connections {
    /// Admits a connection, for which the oldest idle one is closed if there are too many: of the same client if that has too many,
    /// otherwise of the client that has the most. Waits while all are busy; `None` if all of this client are.
    pub async fn admit(self: &Rc<Connections>, client: ClientNetwork, limits: &Limits) -> Option<Connection> {
        let (all, per_client) = (limits.connections.get() as usize, limits.connections_per_client.get() as usize);
        if self.count(client) >= per_client && !self.close_oldest_idle(|open| open.client == client) {
            return None;
        }
        while self.open.borrow().len() >= all && !self.close_oldest_idle(|_| true) {
            self.changed.notified().await;
        }
        let (id, close) = (self.tick(), Rc::new(Notify::new()));
        let open = Open { client, idle_since: Some(id), close: Rc::clone(&close) };
        self.open.borrow_mut().insert(id, open);
        Some(Connection { connections: Rc::clone(self), id, close })
    }

    fn count(&self, client: ClientNetwork) -> usize {
        self.open.borrow().values().filter(|open| open.client == client).count()
    }

    fn close_oldest_idle(&self, is_candidate: impl Fn(&Open) -> bool) -> bool {
        let mut counts = BTreeMap::<ClientNetwork, usize>::new();
        let mut all = self.open.borrow_mut();
        for open in all.values() {
            *counts.entry(open.client).or_default() += 1;
        }
        let share = |open: &Open| counts.get(&open.client).copied().unwrap_or_default();
        let candidates = all.iter().filter(|(_, open)| is_candidate(open));
        let idle = candidates.filter_map(|(id, open)| Some((share(open), std::cmp::Reverse(open.idle_since?), *id)));
        let Some((.., id)) = idle.max() else { return false };
        if let Some(open) = all.remove(&id) {
            open.close.notify_one();
        }
        true
    }

    fn tick(&self) -> u64 {
        self.clock.set(self.clock.get() + 1);
        self.clock.get()
    }
}

/// One open connection, which is counted until this is dropped.
pub struct Connection {
    connections: Rc<Connections>,
    id: u64,
    close: Rc<Notify>,
}

impl Connection {
    /// Returns when the connection has to make way for another.
    pub async fn closed(&self) {
        self.close.notified().await;
    }

    /// Marks it as busy until the result is dropped.
    pub fn serve(&self) -> Busy {
        if let Some(open) = self.connections.open.borrow_mut().get_mut(&self.id) {
            open.idle_since = None;
        }
        Busy { connections: Rc::clone(&self.connections), id: self.id }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.open.borrow_mut().remove(&self.id);
        self.connections.changed.notify_one();
    }
}

/// A request with a verified token that is being served.
pub struct Busy {
    connections: Rc<Connections>,
    id: u64,
}

impl Drop for Busy {
    fn drop(&mut self) {
        let now = self.connections.tick();
        if let Some(open) = self.connections.open.borrow_mut().get_mut(&self.id) {
            open.idle_since = Some(now);
        }
        self.connections.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use futures_util::FutureExt as _;
    use serde_json::json;

    use super::*;

    fn limits(all: u32, per_client: u32) -> Limits {
        serde_json::from_value(json!({ "connections": all, "connections-per-client": per_client })).unwrap()
    }

    fn client(last: u8) -> ClientNetwork {
        IpAddr::from([192, 0, 2, last]).into()
    }

    /// What becomes of a connection of this client: `None` if it has to wait.
    fn admit(all: &Rc<Connections>, last: u8, limits: &Limits) -> Option<Option<Connection>> {
        all.admit(client(last), limits).now_or_never()
    }

    fn is_closed(connection: &Connection) -> bool {
        connection.closed().now_or_never().is_some()
    }

    #[test]
    fn idle_connections_of_one_client_never_shut_out_another() {
        let (all, limits) = (Rc::default(), limits(8, 6));
        let idle: Vec<_> = (0..6).map(|_| admit(&all, 1, &limits).unwrap().unwrap()).collect();
        let others: Vec<_> = (2..6).map(|last| admit(&all, last, &limits).unwrap().unwrap()).collect();
        assert_eq!(idle.iter().filter(|connection| is_closed(connection)).count(), 2);
        assert!(others.iter().all(|connection| !is_closed(connection)));
        assert_eq!(all.open.borrow().len(), 8);
    }

    #[test]
    fn the_oldest_idle_connection_of_a_client_makes_way_for_its_next() {
        let (all, limits) = (Rc::default(), limits(8, 2));
        let first = admit(&all, 1, &limits).unwrap().unwrap();
        let second = admit(&all, 1, &limits).unwrap().unwrap();
        drop(first.serve());
        let third = admit(&all, 1, &limits).unwrap().unwrap();
        assert!(is_closed(&second) && !is_closed(&first));
        let _busy = (first.serve(), third.serve());
        assert!(admit(&all, 1, &limits).unwrap().is_none(), "busy connections are not closed");
        assert!(admit(&all, 2, &limits).unwrap().is_some());
    }

    #[test]
    fn a_connection_waits_while_all_are_busy() {
        let (all, limits) = (Rc::default(), limits(1, 1));
        let only = admit(&all, 1, &limits).unwrap().unwrap();
        let busy = only.serve();
        assert!(admit(&all, 2, &limits).is_none());
        drop(busy);
        assert!(admit(&all, 2, &limits).unwrap().is_some() && is_closed(&only));
    }
}
