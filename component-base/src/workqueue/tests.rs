use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

fn queue() -> WorkQueue<&'static str> {
    WorkQueue::new("test")
}

#[tokio::test]
async fn an_item_is_processed_once_at_a_time_and_again_when_added_meanwhile() {
    let queue = queue();
    queue.add("a");
    queue.add("a");
    assert_eq!(queue.len(), 1);
    assert_eq!(queue.get().await, Some("a"));
    queue.add("a");
    queue.add("a");
    assert_eq!(queue.len(), 0);
    queue.done(&"a");
    assert_eq!(queue.len(), 1);
    assert_eq!(queue.get().await, Some("a"));
    queue.done(&"a");
    assert!(queue.is_empty());
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_exponentially_until_forgotten() {
    let queue = queue();
    for expected in [5, 10, 20, 40, 80] {
        let start = Instant::now();
        queue.add_rate_limited("a");
        assert_eq!(queue.get().await, Some("a"));
        let waited = (Instant::now() - start).as_millis();
        assert!((expected..=expected + 1).contains(&waited), "{waited} for {expected}");
        queue.done(&"a");
    }
    assert_eq!(queue.num_requeues(&"a"), 5);
    queue.forget(&"a");
    assert_eq!(queue.num_requeues(&"a"), 0);
}

#[tokio::test(start_paused = true)]
async fn an_items_delay_is_capped() {
    let queue = queue();
    let start = Instant::now();
    for _ in 0..40 {
        queue.add_rate_limited("a");
        assert_eq!(queue.get().await, Some("a"));
        queue.done(&"a");
    }
    // 5 ms * (2^18 - 1) for the first eighteen, then 1000 s each.
    let seconds = (Instant::now() - start).as_secs();
    assert!((1310 + 22_000..1310 + 22_010).contains(&seconds), "{seconds}");
}

#[tokio::test(start_paused = true)]
async fn the_earliest_of_several_delays_counts() {
    let queue = queue();
    let start = Instant::now();
    queue.add_after("a", Duration::from_secs(60));
    queue.add_after("a", Duration::from_secs(10));
    queue.add_after("a", Duration::from_secs(30));
    queue.add_after("b", Duration::from_secs(20));
    assert_eq!(queue.get().await, Some("a"));
    assert_eq!((Instant::now() - start).as_secs(), 10);
    assert_eq!(queue.get().await, Some("b"));
    assert_eq!((Instant::now() - start).as_secs(), 20);
}

#[tokio::test]
async fn shutdown_hands_out_what_is_left() {
    let queue = queue();
    queue.add("a");
    queue.shutdown();
    queue.add("b");
    assert_eq!(queue.get().await, Some("a"));
    queue.done(&"a");
    assert_eq!(queue.get().await, None);
}

#[test]
fn the_bucket_allows_a_burst_and_then_its_rate() {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut bucket = Bucket::new(10.0, 100.0);
        let now = Instant::now();
        assert!((0..100).all(|_| bucket.reserve(now).is_zero()));
        assert_eq!(bucket.reserve(now), Duration::from_millis(100));
        assert_eq!(bucket.reserve(now), Duration::from_millis(200));
        assert!(!bucket.try_take(now));
    });
}

#[derive(Debug, thiserror::Error)]
#[error("not yet")]
struct NotYet;

#[tokio::test(start_paused = true)]
async fn workers_retry_failures_and_requeue() {
    let (tasks, queue, calls) = (Tasks::new(), WorkQueue::new("workers"), Arc::new(AtomicUsize::new(0)));
    let (counter, finished) = (calls.clone(), Arc::new(Notify::new()));
    let signal = finished.clone();
    run_workers(&tasks, &queue, 2, move |_item: String| {
        let (call, signal) = (counter.fetch_add(1, Ordering::SeqCst), signal.clone());
        async move {
            match call {
                0 | 1 => Err(NotYet),
                2 => Ok(Outcome::RequeueAfter(Duration::from_secs(5))),
                _ => {
                    signal.notify_one();
                    Ok(Outcome::Done)
                }
            }
        }
    });
    queue.add("a".to_owned());
    finished.notified().await;
    assert_eq!(calls.load(Ordering::SeqCst), 4);
    assert_eq!(queue.num_requeues(&"a".to_owned()), 0);
    assert_eq!(tasks.shutdown(Duration::from_secs(1)).await, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_work_is_told_while_it_is() {
    let queue = WorkQueue::new("in-work");
    let told = |name: &str| {
        let text = String::from_utf8(crate::metrics::encode().unwrap()).unwrap();
        let line = format!("workqueue_{name}{{name=\"in-work\"}} ");
        let value = text.lines().find_map(|l| l.strip_prefix(&line)).map(|v| v.parse::<f64>().unwrap());
        value.unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    for item in ["a", "b", "c"] {
        queue.add(item);
    }
    assert_eq!((told("depth"), told("unfinished_work_seconds")), (3.0, 0.0));
    assert_eq!(queue.get().await, Some("a"));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(queue.get().await, Some("b"));
    tokio::time::advance(Duration::from_secs(1)).await;
    queue.add("a");
    assert_eq!((told("depth"), told("adds_total")), (2.0, 4.0), "one in the queue, one again");
    assert_eq!((told("unfinished_work_seconds"), told("longest_running_processor_seconds")), (4.0, 3.0));
    queue.done(&"a");
    assert_eq!((told("unfinished_work_seconds"), told("longest_running_processor_seconds")), (1.0, 1.0));
    drop(queue);
}

#[test]
fn what_the_server_says_is_told_in_its_own_words() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot create")]
    struct Outer(#[source] Box<kube::Error>);
    let status =
        kube::core::Status::failure("pods \"p\" is forbidden: exceeded quota", "Forbidden").with_code(403);
    let refused = kube::Error::Api(Box::new(status));
    assert_eq!(chain(&refused), "pods \"p\" is forbidden: exceeded quota");
    assert_eq!(chain(&Outer(Box::new(refused))), "cannot create: pods \"p\" is forbidden: exceeded quota");
}
