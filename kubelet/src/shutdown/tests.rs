use std::collections::VecDeque;

use parking_lot::Mutex;

use super::*;
use crate::testing;

type Log = Arc<Mutex<Vec<String>>>;

/// logind that waits for so long, can be made to wait longer up to a limit, and says these words.
struct Fake {
    log: Log,
    patience: Duration,
    limit: Duration,
    words: VecDeque<bool>,
}

struct Lock(Log);

impl Drop for Lock {
    fn drop(&mut self) {
        self.0.lock().push("let go".into());
    }
}

#[async_trait]
impl Sessions for Fake {
    async fn patience(&mut self) -> Result<Duration, logind::LogindError> {
        Ok(self.patience)
    }
    async fn ask_for(&mut self, time: Duration) -> Result<(), logind::LogindError> {
        self.log.lock().push(format!("ask for {}", time.as_secs()));
        self.patience = time.min(self.limit);
        Ok(())
    }
    async fn inhibit(&mut self) -> Result<Box<dyn Send>, logind::LogindError> {
        self.log.lock().push("hold".into());
        Ok(Box::new(Lock(Arc::clone(&self.log))))
    }
    async fn next(&mut self) -> Option<bool> {
        self.words.pop_front()
    }
}

/// A node whose pods named `stubborn` never end; all others do at once. Its time is what was paused.
struct Node {
    log: Log,
    time: Arc<Mutex<Duration>>,
    pods: Vec<Arc<Pod>>,
    state: Arc<Shutdown>,
}

#[async_trait]
impl Ender for Node {
    fn active(&self) -> Vec<Arc<Pod>> {
        self.pods.clone()
    }
    fn end(&self, pod: &Pod, seconds: i64) {
        assert!(self.state.is_on() && self.state.admit().is_err(), "nothing new comes in by now");
        self.log.lock().push(format!("end {} in {seconds}", pod::name(pod)));
    }
    fn is_over(&self, pod: &Pod) -> bool {
        pod::name(pod) != "stubborn"
    }
    fn tell(&self, begins: bool) {
        self.log.lock().push(format!("shutdown {begins}"));
    }
    async fn pause(&self, time: Duration) {
        *self.time.lock() += time;
    }
}

/// What came of it: the outcome, what was done, how long it was waited, and what was written down.
struct Watched {
    result: Result<(), String>,
    log: Vec<String>,
    waited: Duration,
    kept: (i64, i64),
}

async fn watch(patience: u64, limit: u64, words: &[bool], pods: Vec<Arc<Pod>>) -> Watched {
    let dir = tempfile::tempdir().unwrap();
    let time = Arc::new(Mutex::new(Duration::ZERO));
    let (log, state) = (Log::default(), Arc::new(Shutdown::default()));
    let seconds = Duration::from_secs;
    let mut sessions = Fake {
        log: Arc::clone(&log),
        patience: seconds(patience),
        limit: seconds(limit),
        words: words.iter().copied().collect(),
    };
    let periods = plan::periods(seconds(30), seconds(10), &[]);
    let watcher = Watcher {
        needed: plan::all(&periods),
        periods,
        file: dir.path().join(FILE),
        node: Node { log: Arc::clone(&log), time: Arc::clone(&time), pods, state: Arc::clone(&state) },
        state: Arc::clone(&state),
    };
    let result = watcher.watch(&mut sessions).await.map_err(|error| error.to_string());
    assert_eq!(state.is_on(), words.last() == Some(&true));
    let (log, waited) = (log.lock().clone(), *time.lock());
    Watched { result, log, waited, kept: last(dir.path()) }
}

#[tokio::test]
async fn pods_end_in_order_before_logind_goes_on() {
    let pods = vec![
        Arc::new(testing::pod("system").priority(2_000_001_000).build()),
        Arc::new(testing::pod("stubborn").build()),
        Arc::new(testing::pod("web").priority(7).build()),
    ];
    let seen = watch(30, 30, &[true], pods).await;
    assert_eq!(seen.result, Ok(()));
    let expected =
        ["hold", "shutdown true", "end stubborn in 20", "end web in 20", "end system in 10", "let go"];
    assert_eq!(seen.log, expected);
    assert_eq!(seen.waited, Duration::from_secs(20));
    assert!(seen.kept.0 > 0 && seen.kept.1 >= seen.kept.0);
}

#[tokio::test]
async fn a_shutdown_that_is_called_off_is_waited_for_again() {
    let seen = watch(30, 30, &[true, false, true], vec![]).await;
    assert_eq!(seen.result, Ok(()));
    let expected = ["hold", "shutdown true", "let go", "shutdown false", "hold", "shutdown true", "let go"];
    assert_eq!(seen.log, expected);
}

#[tokio::test]
async fn logind_is_asked_for_more_time_and_not_trusted_with_less() {
    let seen = watch(5, 60, &[], vec![]).await;
    assert_eq!(seen.result, Ok(()));
    assert_eq!(seen.log, ["ask for 30", "hold", "let go"]);
    let seen = watch(5, 10, &[], vec![]).await;
    assert_eq!((seen.result.is_err(), seen.log), (true, vec!["ask for 30".to_owned()]));
}

#[test]
fn what_the_last_shutdown_left_is_read_if_it_can_be() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(last(dir.path()), (0, 0));
    for (text, expected) in [
        (r#"{"startTime":"1970-01-01T00:00:05Z","endTime":"1970-01-01T00:00:09Z"}"#, (5, 9)),
        (r#"{"startTime":"1970-01-01T00:00:05Z","endTime":"0001-01-01T00:00:00Z"}"#, (5, 0)),
        (r#"{"startTime":"1970-01-01T00:00:05Z","endTime":null}"#, (5, 0)),
        ("{\"start", (0, 0)),
        ("", (0, 0)),
    ] {
        std::fs::write(dir.path().join(FILE), text).unwrap();
        assert_eq!(last(dir.path()), expected, "{text}");
    }
}
