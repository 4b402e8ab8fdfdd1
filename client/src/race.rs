//! Asks several addresses for the same thing, so that one that is silent costs
//! little: the next one is asked when the one before has failed, or has not
//! answered for a moment, and the first good answer wins.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How long one address is waited for before the next one is asked, too.
pub const HEAD_START: Duration = Duration::from_millis(50);

/// The first good answer to `ask`, and who gave it. Whoever is still being
/// asked then is let go of. `ask` has to end by itself.
///
/// # Errors
/// Nobody gave one: what each of `addresses` ended with, in their order.
pub async fn first_good<T, E, F>(
    addresses: &[SocketAddr],
    ask: impl FnMut(SocketAddr) -> F,
) -> Result<(SocketAddr, T), Vec<(SocketAddr, E)>>
where
    F: Future<Output = Result<T, E>>,
{
    first_good_after(HEAD_START, addresses, ask).await
}

/// As [`first_good`], but each is waited for that long before the next one is asked.
///
/// # Errors
/// As there.
pub async fn first_good_after<T, E, F>(
    head_start: Duration,
    addresses: &[SocketAddr],
    mut ask: impl FnMut(SocketAddr) -> F,
) -> Result<(SocketAddr, T), Vec<(SocketAddr, E)>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut asked: Vec<(usize, Pin<Box<F>>)> = Vec::new();
    let mut failed: Vec<(usize, E)> = Vec::new();
    let mut next = 0;
    let mut start_at = Instant::now();
    loop {
        if next < addresses.len() && (asked.is_empty() || Instant::now() >= start_at) {
            asked.push((next, Box::pin(ask(addresses[next]))));
            next += 1;
            start_at = Instant::now() + head_start;
        }
        if asked.is_empty() {
            failed.sort_by_key(|(index, _)| *index);
            return Err(failed.into_iter().map(|(index, why)| (addresses[index], why)).collect());
        }
        tokio::select! {
            biased;
            (index, answer) = any(&mut asked) => match answer {
                Ok(answer) => return Ok((addresses[index], answer)),
                Err(why) => {
                    failed.push((index, why));
                    start_at = Instant::now();
                }
            },
            () = sleep_until(start_at), if next < addresses.len() => {}
        }
    }
}

/// The first of `asked` that ends, which is taken out.
async fn any<F: Future>(asked: &mut Vec<(usize, Pin<Box<F>>)>) -> (usize, F::Output) {
    poll_fn(|context| {
        for at in 0..asked.len() {
            if let Poll::Ready(answer) = asked[at].1.as_mut().poll(context) {
                let (index, _) = asked.remove(at);
                return Poll::Ready((index, answer));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    /// Each address, by its port, ends after some milliseconds: well or not.
    /// Who won, who was asked and when, and how long it took.
    async fn race(ends: &[(u64, bool)]) -> (Result<u16, Vec<u16>>, Vec<(u16, u64)>, u64) {
        let began = Instant::now();
        let asked = RefCell::new(Vec::new());
        let ms = || began.elapsed().as_millis() as u64;
        let won = first_good(&addresses(ends.len() as u16), |address| {
            asked.borrow_mut().push((address.port(), ms()));
            let (after, good) = ends[usize::from(address.port()) - 1];
            async move {
                tokio::time::sleep(Duration::from_millis(after)).await;
                if good { Ok(()) } else { Err(()) }
            }
        })
        .await;
        let won = won.map(|(address, ())| address.port());
        let won = won.map_err(|all| all.iter().map(|(address, ())| address.port()).collect());
        let took = ms();
        (won, asked.into_inner(), took)
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_at_once_is_the_only_one_asked() {
        assert_eq!(race(&[(10, true), (0, true)]).await, (Ok(1), vec![(1, 0)], 10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_one_costs_its_head_start() {
        let ends = [(500, false), (500, false), (5, true), (0, true)];
        let (won, asked, took) = race(&ends).await;
        assert_eq!((won, asked), (Ok(3), vec![(1, 0), (2, 50), (3, 100)]));
        assert!((105..=106).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_one_follows_a_failure_at_once() {
        let (won, asked, _) = race(&[(0, false), (500, false), (20, false), (1, true)]).await;
        assert_eq!(won, Ok(4));
        let order: Vec<_> = asked.iter().map(|(port, _)| *port).collect();
        assert_eq!(order, [1, 2, 3, 4]);
        assert!(asked[1].1 < 10 && asked[3].1 < 90, "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_good_answer_still_wins() {
        assert_eq!(race(&[(300, true), (60, false), (100, false)]).await.0, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_good_answer_all_are_waited_for() {
        let (won, _, took) = race(&[(500, false), (0, false), (400, false)]).await;
        assert_eq!(won, Err(vec![1, 2, 3]));
        assert!((500..=502).contains(&took), "{took}");
        assert_eq!(race(&[]).await, (Err(vec![]), vec![], 0));
    }
}
