//! A thread of its own for what touches the disk: a disk that hangs holds up this thread and nothing else.

use std::io;
use std::sync::{Arc, mpsc};

use tokio::sync::oneshot;

use super::Store;

type Job = Box<dyn FnOnce(&Store) + Send>;

/// Runs one job after the other. Ends when it is dropped, after the jobs that it was given; nobody waits for that.
pub struct Lane {
    jobs: mpsc::Sender<Job>,
}

impl Lane {
    pub fn start(name: &str, store: Arc<Store>) -> io::Result<Self> {
        let (jobs, given) = mpsc::channel::<Job>();
        std::thread::Builder::new().name(name.into()).spawn(move || given.iter().for_each(|job| job(&store)))?;
        Ok(Self { jobs })
    }

    /// `None` only if the thread is gone. A caller that stops waiting does not stop the job.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce(&Store) -> T + Send + 'static) -> Option<T> {
        let (done, result) = oneshot::channel();
        // Nobody may be waiting any more.
        self.jobs.send(Box::new(move |store| drop(done.send(job(store))))).ok()?;
        result.await.ok()
    }
}
