//! A server in front of the stand-in, which fails on demand at an address that stays the same.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// What the server does with a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Mode {
    /// Forwards it to the stand-in.
    Forward,
    /// Closes it.
    Close,
    /// Keeps it, and sends nothing.
    Silent,
    /// Answers each request with this status.
    Status(&'static str),
}

/// The server.
pub(crate) struct Front {
    address: String,
    shared: Arc<Shared>,
}

struct Shared {
    mode: Mutex<Mode>,
    connections: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Front {
    /// Forwards to this URL.
    pub(crate) fn to(url: &str) -> Front {
        let target = url.split_once("://").unwrap().1.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Forward),
            connections: AtomicU64::new(0),
            open: Mutex::default(),
        });
        let serving = shared.clone();
        thread::spawn(move || listener.incoming().flatten().for_each(|stream| serving.serve(stream, &target)));
        Front { address, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes the mode, and closes all connections.
    pub(crate) fn set(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
        for stream in self.shared.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// How many connections were made.
    pub(crate) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream, target: &str) {
        self.connections.fetch_add(1, Ordering::SeqCst);
        let mode = *self.mode.lock().unwrap();
        match mode {
            Mode::Close => return,
            Mode::Silent => {}
            Mode::Forward => {
                let Ok(server) = TcpStream::connect(target) else { return };
                self.open.lock().unwrap().push(server.try_clone().unwrap());
                copy(stream.try_clone().unwrap(), server.try_clone().unwrap());
                copy(server, stream.try_clone().unwrap());
            }
            Mode::Status(status) => {
                let mut answering = stream.try_clone().unwrap();
                thread::spawn(move || {
                    let _ = stream.read(&mut [0; 4096]);
                    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                });
                answering = answering.try_clone().unwrap();
                self.open.lock().unwrap().push(answering);
                return;
            }
        }
        self.open.lock().unwrap().push(stream);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
}
