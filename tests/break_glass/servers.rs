//! Servers with one fault each.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Accepts connections and sends no response.
pub(crate) fn silent() -> String {
    serve(std::mem::forget)
}

/// Responds to every request with this status.
pub(crate) fn status(line: &'static str) -> String {
    serve(move |mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = write!(stream, "HTTP/1.1 {line}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    })
}

/// Responds with bytes that are not HTTP.
pub(crate) fn garbage() -> String {
    serve(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"\0\0\0\x0b\x04 no HTTP \n");
    })
}

/// Serves on loopback until the test process ends.
fn serve(answer: impl Fn(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || listener.incoming().flatten().for_each(answer));
    url
}
