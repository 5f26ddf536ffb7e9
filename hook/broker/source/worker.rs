//! The thread on which the source is asked.
//!
//! A request belongs to no start: it continues if the start that caused it ends. Connections stay open between starts, whatever runtime each
//! start has.

use std::io;
use std::pin::Pin;
use std::sync::mpsc::channel;
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::{LocalSet, spawn_local};

type Job = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()>>> + Send>;

/// The thread. It ends when this is dropped.
pub(super) struct Worker(UnboundedSender<Job>);

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the kernel has no resources for it.
    pub(super) fn start() -> io::Result<Worker> {
        let (sender, mut jobs) = unbounded_channel::<Job>();
        let (report, built) = channel();
        // The thread builds its runtime: if there can be no thread, a runtime would be dropped in an asynchronous context, which panics.
        thread::Builder::new().name("source".into()).spawn(move || {
            // One thread for files, which are written one after another.
            let runtime = match Builder::new_current_thread().enable_all().max_blocking_threads(1).build() {
                Ok(runtime) => runtime,
                Err(error) => return report.send(Err(error)).unwrap_or_default(),
            };
            let _ = report.send(Ok(()));
            let all = async {
                while let Some(job) = jobs.recv().await {
                    spawn_local(job());
                }
            };
            LocalSet::new().block_on(&runtime, all);
            runtime.shutdown_background();
        })?;
        built.recv().unwrap_or_else(|ended| Err(io::Error::other(ended)))?;
        Ok(Worker(sender))
    }

    /// Runs a job on the thread, next to all others.
    pub(super) fn run<F: Future<Output = ()> + 'static>(&self, job: impl FnOnce() -> F + Send + 'static) {
        // The thread ends after this does.
        let _ = self.0.send(Box::new(move || Box::pin(job())));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn a_job_outlives_the_runtime_that_began_it() {
        let worker = Worker::start().unwrap();
        let (begun, begins) = oneshot::channel();
        let (done, ends) = oneshot::channel();
        let runtime = || Builder::new_current_thread().enable_all().build().unwrap();
        runtime().block_on(async {
            worker.run(move || async move {
                let _ = begun.send(());
                tokio::time::sleep(Duration::from_millis(20)).await;
                let _ = done.send(7);
            });
            begins.await.unwrap();
        });
        assert_eq!(runtime().block_on(ends), Ok(7));
    }
}
