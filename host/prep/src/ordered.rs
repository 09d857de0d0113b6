//! Work on several threads whose results are taken in order.

use std::thread;

use crossbeam_channel::bounded;

use crate::error::PrepError;

/// Makes results 0 … `count` on one thread per worker and gives them to `take` in order, a few ahead of it. The first error
/// of either ends it.
///
/// # Errors
/// That of the first failing `make` (in order) or of `take`.
pub fn ordered<W: Send, T: Send>(
    workers: &mut [W],
    count: usize,
    make: impl Fn(&mut W, usize) -> Result<T, PrepError> + Sync,
    mut take: impl FnMut(T) -> Result<(), PrepError>,
) -> Result<(), PrepError> {
    let (jobs_in, jobs) = bounded(2 * workers.len());
    let (order_in, order) = bounded(2 * workers.len());
    thread::scope(|scope| {
        for worker in workers {
            let (jobs, make) = (jobs.clone(), &make);
            scope.spawn(move || {
                for (i, reply) in jobs {
                    let reply: crossbeam_channel::Sender<Result<T, PrepError>> = reply;
                    // A receiver that is gone means that the work was given up.
                    let _ = reply.send(make(worker, i));
                }
            });
        }
        drop(jobs);
        scope.spawn(move || {
            for i in 0..count {
                let (reply, answer) = bounded(1);
                // The order first: whoever waits must know of the answer before it can be lost.
                if order_in.send(answer).is_err() || jobs_in.send((i, reply)).is_err() {
                    return;
                }
            }
        });
        for answer in order {
            match answer.recv() {
                Ok(result) => take(result?)?,
                // The scope passes the worker's panic on when it ends.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_kept_and_the_first_error_ends_it() {
        let delay = |i: usize| thread::sleep(std::time::Duration::from_micros((i * 7919 % 13) as u64 * 50));
        let mut seen = Vec::new();
        let make = |_: &mut (), i: usize| {
            delay(i);
            Ok(i)
        };
        ordered(&mut [(), (), ()], 100, make, |i| {
            seen.push(i);
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, (0..100).collect::<Vec<_>>());

        let mut taken = 0;
        let make = |_: &mut (), i: usize| {
            delay(i);
            if i >= 20 { Err(PrepError::Option(i.to_string())) } else { Ok(i) }
        };
        let error = ordered(&mut [(), ()], 1000, make, |_| {
            taken += 1;
            Ok(())
        });
        assert_eq!((taken, error.unwrap_err().to_string()), (20, "20".into()));
        let stop = ordered(&mut [()], 1000, |_, i| Ok(i), |i| if i == 3 { Err(PrepError::Stopped) } else { Ok(()) });
        assert!(matches!(stop, Err(PrepError::Stopped)));
    }
}
