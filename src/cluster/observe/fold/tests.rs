//! Who is primary, and which standby is fit.

use super::*;
use crate::topology::ClusterBoard;

const THRESHOLD: u32 = 3;

/// A fold, and what the shell does around it.
struct Cluster {
    fold: Fold,
    board: ClusterBoard,
    now: Duration,
}

impl Cluster {
    /// Takes in an answer to a question that is asked now, over a connection that is there or is made, or a failure.
    fn observe(&mut self, node: &str, observation: Observation) {
        let connected = self.fold.slots.iter().any(|slot| *slot.name == *node && slot.connected);
        match observation {
            Observation::Answered(_, answer) => {
                if !connected {
                    self.take_in(node, Observation::Connected);
                }
                let asked = self.board.ask();
                self.take_in(node, Observation::Answered(asked, answer));
            }
            Observation::Missed(miss) => {
                self.take_in(node, Observation::Disconnected);
                self.take_in(node, Observation::Missed(miss));
            }
            other => self.take_in(node, other),
        }
    }

    fn take_in(&mut self, node: &str, observation: Observation) {
        self.now += Duration::from_millis(1);
        self.fold.observe(self.now, node, observation);
        self.settle();
    }

    fn settle(&mut self) {
        if self.fold.needs_era() {
            self.fold.begin_era(self.board.begin_era());
        }
        assert!(!self.fold.needs_era());
    }

    fn arrange(&mut self, names: &[&str]) {
        self.fold.arrange(&names.iter().map(|name| NodeName::from(*name)).collect::<Vec<_>>());
        self.settle();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    fn view(&self) -> ClusterView {
        self.fold.view()
    }
}

fn cluster(names: &[&str]) -> Cluster {
    let mut cluster = Cluster { fold: Fold::new(THRESHOLD, 0), board: ClusterBoard::default(), now: Duration::ZERO };
    cluster.arrange(names);
    cluster
}

fn answer(role: Role, timeline: u32, lsn: u64) -> Answer {
    let standby = role == Role::Standby;
    Answer {
        role,
        system_identifier: Some(SystemIdentifier(7)),
        timeline: Some(Timeline(timeline)),
        received_lsn: Some(Lsn(lsn)),
        replayed_lsn: standby.then_some(Lsn(lsn)),
        flushed_lsn: (!standby).then_some(Lsn(lsn)),
        snapshot: None,
        receiver: if standby { Receiver::Streaming } else { Receiver::Absent },
        server_version: Some(150_004),
        xids: Xids::default(),
    }
}

fn answered(answer: Answer) -> Observation {
    Observation::Answered(Stamp::default(), answer)
}

fn primary_on(timeline: u32, lsn: u64) -> Observation {
    answered(answer(Role::Primary, timeline, lsn))
}

fn standby_at(lsn: u64) -> Observation {
    standby_on(1, lsn)
}

fn standby_on(timeline: u32, lsn: u64) -> Observation {
    answered(answer(Role::Standby, timeline, lsn))
}

/// A standby that receives nothing.
fn cut_off_at(lsn: u64) -> Observation {
    answered(Answer { timeline: None, receiver: Receiver::Absent, ..answer(Role::Standby, 1, lsn) })
}

fn from_another_cluster(observation: Observation) -> Observation {
    match observation {
        Observation::Answered(stamp, answer) => {
            Observation::Answered(stamp, Answer { system_identifier: Some(SystemIdentifier(8)), ..answer })
        }
        other => other,
    }
}

fn refused() -> Observation {
    Observation::Missed(Miss::Gone("connection refused".to_owned()))
}

fn silent() -> Observation {
    Observation::Missed(Miss::Silent("no answer within 1s".to_owned()))
}

fn primary(cluster: &Cluster) -> Option<String> {
    cluster.view().primary.map(|name| name.to_string())
}

fn node(cluster: &Cluster, name: &str) -> NodeView {
    cluster.view().nodes.into_iter().find(|node| *node.name == *name).unwrap()
}

#[test]
fn the_node_that_is_not_in_recovery_is_the_primary() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.observe("a", standby_at(10));
    cluster.observe("b", primary_on(1, 10));
    assert_eq!(primary(&cluster).as_deref(), Some("b"));
    assert_eq!(cluster.view().epoch, Epoch(1));
    assert!(node(&cluster, "a").trouble.is_none() && node(&cluster, "b").trouble.is_none());
}

#[test]
fn nobody_is_primary_before_every_node_has_been_asked() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.observe("a", primary_on(1, 10));
    assert_eq!(primary(&cluster), None);
    assert!(node(&cluster, "a").healthy && node(&cluster, "a").trouble.is_none());
    cluster.observe("b", primary_on(2, 10));
    assert_eq!(primary(&cluster).as_deref(), Some("b"));
    assert_eq!(cluster.view().epoch, Epoch(1));
}

#[test]
fn a_node_that_fails_to_answer_at_the_start_does_not_hold_up_the_others() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.observe("a", primary_on(1, 10));
    cluster.observe("b", silent());
    assert_eq!(primary(&cluster).as_deref(), Some("a"));
    assert!(!node(&cluster, "b").healthy);
}

#[test]
fn lag_is_the_distance_from_the_primarys_insert_position_to_the_replayed_one_and_never_negative() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.observe("b", standby_at(60));
    assert_eq!(node(&cluster, "b").lag_bytes, None);
    cluster.observe("a", primary_on(1, 100));
    assert_eq!(node(&cluster, "b").lag_bytes, Some(40));
    assert_eq!(node(&cluster, "a").lag_bytes, Some(0));
    cluster.observe("b", standby_at(130));
    assert_eq!(node(&cluster, "b").lag_bytes, Some(0));
}

#[test]
fn lag_is_measured_against_the_lost_primarys_last_position() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.observe("b", standby_at(60));
    cluster.observe("a", primary_on(1, 100));
    cluster.observe("a", refused());
    cluster.observe("b", standby_at(70));
    assert_eq!(node(&cluster, "b").lag_bytes, Some(30));
}

#[test]
fn timeouts_leave_the_primary_in_place_until_the_threshold() {
    let mut cluster = cluster(&["a"]);
    cluster.observe("a", primary_on(1, 10));
    for _ in 1..THRESHOLD {
        cluster.observe("a", silent());
        assert_eq!(primary(&cluster).as_deref(), Some("a"));
    }
    cluster.observe("a", silent());
    assert_eq!(primary(&cluster), None);
    assert_eq!(node(&cluster, "a").trouble.as_deref(), Some("no answer within 1s"));
}

#[test]
fn an_answer_starts_the_count_of_timeouts_anew() {
    let mut cluster = cluster(&["a"]);
    for _ in 0..4 {
        cluster.observe("a", primary_on(1, 10));
        cluster.observe("a", silent());
        cluster.observe("a", silent());
    }
    assert_eq!(primary(&cluster).as_deref(), Some("a"));
}

#[test]
fn a_refused_connection_takes_the_primary_away_at_once_and_its_return_keeps_the_epoch() {
    let mut cluster = cluster(&["a"]);
    cluster.observe("a", primary_on(1, 10));
    cluster.observe("a", refused());
    assert_eq!(primary(&cluster), None);
    assert_eq!(node(&cluster, "a").trouble.as_deref(), Some("connection refused"));
    cluster.observe("a", primary_on(1, 20));
    assert_eq!(primary(&cluster).as_deref(), Some("a"));
    assert_eq!(cluster.view().epoch, Epoch(1));
}

#[test]
fn a_primary_whose_connections_are_all_taken_stays_the_primary() {
    let mut cluster = cluster(&["a"]);
    cluster.observe("a", primary_on(1, 10));
    for _ in 0..10 {
        cluster.observe("a", Observation::Missed(Miss::Saturated("sorry, too many clients already".to_owned())));
    }
    assert_eq!(primary(&cluster).as_deref(), Some("a"));
    assert_eq!(node(&cluster, "a").trouble.as_deref(), Some("sorry, too many clients already"));
}

#[test]
fn of_two_primaries_the_higher_timeline_wins_and_the_epoch_counts_up() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.observe("b", standby_at(10));
    cluster.observe("a", primary_on(1, 10));
    cluster.observe("b", primary_on(2, 10));
    assert_eq!(primary(&cluster).as_deref(), Some("b"));
    assert_eq!(cluster.view().epoch, Epoch(2));
    let trouble = node(&cluster, "a").trouble.unwrap();
    assert_eq!(trouble, "accepts writes on timeline 1, but the cluster is on timeline 2");
}

#[test]
fn on_the_same_timeline_the_primary_in_use_stays_in_use() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.observe("a", standby_at(10));
    cluster.observe("b", primary_on(1, 10));
    cluster.observe("a", primary_on(1, 99));
    assert_eq!(primary(&cluster).as_deref(), Some("b"));
    assert_eq!(cluster.view().epoch, Epoch(1));
    assert_eq!(node(&cluster, "a").trouble.as_deref(), Some("accepts writes, but the primary is \"b\""));
    cluster.observe("a", standby_at(99));
    assert_eq!(node(&cluster, "a").trouble, None);
}

#[test]
fn of_two_primaries_on_one_timeline_that_were_never_in_use_none_is_chosen() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.observe("a", primary_on(1, 10));
    cluster.observe("b", primary_on(1, 10));
    assert_eq!(primary(&cluster), None);
    assert!(node(&cluster, "a").trouble.is_some() && node(&cluster, "b").trouble.is_some());
    cluster.observe("b", refused());
    assert_eq!(primary(&cluster).as_deref(), Some("a"));
}

#[test]
fn an_old_primary_that_comes_back_while_the_new_one_is_away_is_not_the_primary() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.observe("b", standby_at(10));
    cluster.observe("a", primary_on(1, 10));
    cluster.observe("a", refused());
    cluster.observe("b", primary_on(2, 10));
    cluster.observe("b", refused());
    cluster.observe("a", primary_on(1, 10));
    assert_eq!(primary(&cluster), None);
    assert!(node(&cluster, "a").trouble.unwrap().contains("timeline 2"));
    cluster.observe("b", primary_on(2, 10));
    assert_eq!(primary(&cluster).as_deref(), Some("b"));
    assert_eq!(cluster.view().epoch, Epoch(2));
}

#[test]
fn a_primary_that_was_demoted_is_no_longer_the_primary() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.observe("b", standby_at(10));
    cluster.observe("a", primary_on(1, 10));
    cluster.observe("a", standby_at(10));
    assert_eq!(primary(&cluster), None);
}

#[test]
fn a_node_with_another_system_identifier_is_refused() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.observe("a", standby_at(10));
    cluster.observe("b", from_another_cluster(primary_on(1, 10)));
    assert_eq!(primary(&cluster), None);
    let b = node(&cluster, "b");
    assert!(!b.healthy);
    assert_eq!(b.trouble.as_deref(), Some("belongs to another cluster: its system identifier is 8, not 7"));
}

#[test]
fn a_node_nobody_asks_is_the_primary_when_it_is_declared() {
    let mut cluster = cluster(&["a"]);
    cluster.fold.declare_primary("a");
    assert_eq!(primary(&cluster).as_deref(), Some("a"));
    assert_eq!(cluster.view().epoch, Epoch(1));
    assert!(node(&cluster, "a").healthy && node(&cluster, "a").role == Some(Role::Primary));
}

#[test]
fn a_new_node_in_the_configuration_changes_nothing_for_the_others() {
    let mut cluster = cluster(&["a"]);
    cluster.observe("a", primary_on(1, 10));
    cluster.arrange(&["b", "a"]);
    assert_eq!(primary(&cluster).as_deref(), Some("a"));
    assert_eq!(node(&cluster, "b").trouble.as_deref(), Some("not asked yet"));
    assert_eq!(*cluster.view().nodes[0].name, *"b");
}

#[test]
fn after_all_nodes_are_replaced_another_cluster_is_accepted() {
    let mut cluster = cluster(&["a"]);
    cluster.observe("a", primary_on(5, 10));
    cluster.arrange(&["c"]);
    assert_eq!(primary(&cluster), None);
    cluster.observe("c", from_another_cluster(primary_on(1, 10)));
    assert_eq!(primary(&cluster).as_deref(), Some("c"));
    assert_eq!(cluster.view().epoch, Epoch(2));
}

#[test]
fn of_nodes_of_two_clusters_the_majority_stays_and_of_equals_the_first_whoever_answers_first() {
    let mut cluster = cluster(&["a", "b", "c"]);
    cluster.observe("c", from_another_cluster(primary_on(1, 10)));
    cluster.observe("a", primary_on(1, 10));
    cluster.observe("b", standby_at(10));
    assert_eq!(primary(&cluster).as_deref(), Some("a"));
    assert_eq!((fitness(&cluster, "b"), fitness(&cluster, "c")), (None, Some(Unfit::Unhealthy)));
    // from now on it is settled
    cluster.observe("b", refused());
    cluster.observe("a", refused());
    assert_eq!(primary(&cluster), None);
    cluster.observe("a", primary_on(1, 10));
    assert_eq!(primary(&cluster).as_deref(), Some("a"));
}

#[test]
fn of_two_nodes_of_two_clusters_the_one_that_is_configured_first_is_right() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.observe("b", from_another_cluster(primary_on(1, 10)));
    cluster.observe("a", primary_on(1, 10));
    assert_eq!(primary(&cluster).as_deref(), Some("a"));
}

fn fitness(cluster: &Cluster, name: &str) -> Option<Unfit> {
    node(cluster, name).unfit
}

/// A primary, and a standby that is fit.
fn a_with_b() -> Cluster {
    let mut cluster = cluster(&["a", "b"]);
    cluster.observe("a", primary_on(1, 100));
    cluster.observe("b", standby_at(100));
    assert_eq!(fitness(&cluster, "b"), None);
    cluster
}

#[test]
fn a_standby_that_answered_before_there_was_a_primary_is_compared_with_it_once_there_is() {
    let mut cluster = cluster(&["a", "b"]);
    cluster.fold.set_max_lag(10);
    cluster.observe("b", standby_at(50));
    assert_eq!(fitness(&cluster, "b"), Some(Unfit::NoPrimary));
    cluster.observe("a", primary_on(1, 100));
    assert_eq!(fitness(&cluster, "b"), Some(Unfit::Lagging));
    assert_eq!(fitness(&cluster, "a"), Some(Unfit::Primary));
}

#[test]
fn a_standby_without_a_receiver_is_forgiven_for_a_while_and_one_that_never_streamed_is_not() {
    let mut cluster = a_with_b();
    cluster.observe("b", cut_off_at(100));
    assert_eq!(fitness(&cluster, "b"), None);
    cluster.pass(Duration::from_secs(10));
    cluster.observe("b", cut_off_at(100));
    assert_eq!(fitness(&cluster, "b"), Some(Unfit::NotStreaming));
    cluster.observe("b", standby_at(100));
    assert_eq!(fitness(&cluster, "b"), None);
    // another life
    cluster.observe("b", Observation::Disconnected);
    assert_eq!(fitness(&cluster, "b"), Some(Unfit::Unsampled));
    cluster.observe("b", cut_off_at(100));
    assert_eq!(fitness(&cluster, "b"), Some(Unfit::NotStreaming));
}

#[test]
fn without_a_primary_a_standby_that_followed_it_stays_fit_and_no_other_becomes_so() {
    let mut cluster = cluster(&["a", "b", "c"]);
    cluster.observe("b", standby_at(90));
    cluster.observe("c", refused());
    cluster.observe("a", primary_on(1, 100));
    cluster.observe("a", refused());
    cluster.pass(Duration::from_secs(60));
    cluster.observe("b", cut_off_at(95));
    cluster.observe("c", cut_off_at(95));
    assert_eq!((primary(&cluster), fitness(&cluster, "b")), (None, None));
    assert_eq!(node(&cluster, "b").lag_bytes, Some(5));
    assert_eq!(fitness(&cluster, "c"), Some(Unfit::NoPrimary));
    // the primary is back, its standby does not connect to it
    cluster.observe("a", primary_on(1, 100));
    assert_eq!(fitness(&cluster, "b"), None);
    cluster.pass(Duration::from_secs(11));
    cluster.observe("b", cut_off_at(95));
    assert_eq!(fitness(&cluster, "b"), Some(Unfit::NotStreaming));
}

#[test]
fn after_a_promotion_a_standby_counts_once_it_follows_the_new_timeline() {
    let mut cluster = cluster(&["a", "b", "c"]);
    cluster.observe("b", standby_at(100));
    cluster.observe("c", standby_at(100));
    cluster.observe("a", primary_on(1, 100));
    assert_eq!((fitness(&cluster, "b"), fitness(&cluster, "c")), (None, None));
    // c may have more of the old timeline than there is in the new one, and be level with it by its number alone
    cluster.observe("b", primary_on(2, 90));
    assert_eq!((fitness(&cluster, "b"), fitness(&cluster, "c")), (Some(Unfit::Primary), Some(Unfit::OtherTimeline)));
    cluster.observe("c", standby_on(1, 120));
    assert_eq!(fitness(&cluster, "c"), Some(Unfit::OtherTimeline));
    cluster.observe("c", cut_off_at(120));
    assert_eq!(fitness(&cluster, "c"), Some(Unfit::NotStreaming));
    cluster.observe("c", standby_on(2, 90));
    assert_eq!(fitness(&cluster, "c"), None);
    // the new primary goes: who stayed with the old one is not taken
    cluster.observe("b", refused());
    cluster.observe("a", answered(answer(Role::Standby, 1, 120)));
    assert_eq!((fitness(&cluster, "c"), fitness(&cluster, "a")), (None, Some(Unfit::OtherTimeline)));
}

#[test]
fn a_standby_whose_receiver_cannot_be_seen_is_not_fit_and_says_what_to_grant() {
    let mut cluster = a_with_b();
    cluster.pass(Duration::from_secs(20));
    let hidden = Answer { timeline: None, receiver: Receiver::Hidden, ..answer(Role::Standby, 1, 100) };
    cluster.observe("b", answered(hidden));
    let b = node(&cluster, "b");
    assert_eq!((b.unfit, b.healthy), (Some(Unfit::NotStreaming), true));
    assert!(b.trouble.unwrap().contains("GRANT pg_monitor"));
}

#[test]
fn a_standby_that_comes_and_goes_gets_no_reads_until_it_has_stayed() {
    let mut cluster = a_with_b();
    for _ in 0..3 {
        cluster.observe("b", refused());
        assert_eq!(fitness(&cluster, "b"), Some(Unfit::Unhealthy));
        cluster.observe("b", standby_at(100));
        assert_eq!(fitness(&cluster, "b"), None, "three times are forgiven");
    }
    // a connection that breaks is no leaving
    for _ in 0..10 {
        cluster.observe("b", Observation::Disconnected);
        cluster.observe("b", standby_at(100));
        assert_eq!(fitness(&cluster, "b"), None);
    }
    cluster.observe("b", refused());
    cluster.observe("b", standby_at(100));
    assert_eq!(fitness(&cluster, "b"), Some(Unfit::Flapping));
    cluster.pass(Duration::from_secs(2));
    cluster.observe("a", primary_on(1, 100));
    assert_eq!(fitness(&cluster, "b"), None, "any answer lets the time pass");
}

#[test]
fn every_change_of_a_connection_is_another_life_without_samples_and_one_of_the_primarys_another_era() {
    let mut cluster = a_with_b();
    let (life, era) = (node(&cluster, "b").life, cluster.view().samples.era());
    let asked = node(&cluster, "b").sampled;
    assert!(asked > 0 && asked <= cluster.board.stamp().asked);
    cluster.observe("b", Observation::Disconnected);
    let b = node(&cluster, "b");
    assert_eq!((b.sampled, b.replayed_lsn, b.lag_bytes, b.lag_time), (0, None, None, None));
    assert!(b.life > life && b.healthy);
    cluster.observe("b", standby_at(100));
    assert!(node(&cluster, "b").sampled > asked && node(&cluster, "b").life > b.life);
    assert_eq!(cluster.view().samples.era(), era);

    cluster.observe("a", primary_on(1, 110));
    assert_eq!(cluster.view().samples.newest().map(|sample| sample.lsn), Some(Lsn(110)));
    cluster.observe("a", Observation::Disconnected);
    assert_eq!((primary(&cluster).as_deref(), cluster.view().samples.era()), (Some("a"), era));
    cluster.observe("a", Observation::Connected);
    assert_eq!((primary(&cluster).as_deref(), cluster.view().samples.newest()), (Some("a"), None));
    assert!(cluster.view().samples.era() > era && cluster.view().samples.era() == cluster.board.stamp().era);
    assert_eq!(fitness(&cluster, "b"), None);
}

#[test]
fn a_node_that_is_taken_out_and_put_back_begins_a_life_that_nobody_knows() {
    let mut cluster = a_with_b();
    let life = node(&cluster, "b").life;
    cluster.arrange(&["a"]);
    cluster.arrange(&["a", "b"]);
    assert_eq!((node(&cluster, "b").sampled, fitness(&cluster, "b")), (0, Some(Unfit::Unhealthy)));
    cluster.observe("b", standby_at(90));
    assert!(node(&cluster, "b").life > life);
}

#[test]
fn while_the_primary_is_away_its_last_samples_bound_what_was_seen_before_them() {
    let mut cluster = a_with_b();
    let seen = cluster.board.stamp();
    cluster.observe("a", primary_on(1, 110));
    let later = cluster.board.stamp();
    cluster.observe("a", refused());
    cluster.observe("b", cut_off_at(110));
    assert_eq!(primary(&cluster), None);
    let bound = |cluster: &Cluster, stamp| cluster.view().samples.bound(stamp);
    assert_eq!((bound(&cluster, seen), bound(&cluster, later)), (Some(Lsn(110)), None));
    // it is back, and may have lost what it never flushed
    cluster.observe("a", primary_on(1, 105));
    assert_eq!((bound(&cluster, seen), bound(&cluster, later)), (None, None));
    cluster.observe("a", primary_on(1, 105));
    assert_eq!((bound(&cluster, seen), bound(&cluster, later)), (Some(Lsn(105)), Some(Lsn(105))));
}

#[test]
fn a_sample_that_was_asked_for_before_its_era_does_not_count_and_the_next_does() {
    let mut cluster = a_with_b();
    cluster.observe("a", primary_on(1, 110));
    let early = cluster.board.ask();
    cluster.take_in("b", Observation::Connected);
    cluster.take_in("a", Observation::Connected); // an era begins
    cluster.take_in("a", Observation::Answered(early, answer(Role::Primary, 1, 120)));
    assert_eq!(cluster.view().samples.newest(), None);
    assert_eq!(node(&cluster, "a").received_lsn, Some(Lsn(120)));
    cluster.observe("a", primary_on(1, 130));
    assert_eq!(cluster.view().samples.newest().map(|sample| sample.lsn), Some(Lsn(130)));
}

#[test]
fn lag_time_counts_from_when_the_log_went_beyond_what_was_replayed() {
    let mut cluster = a_with_b();
    cluster.observe("a", primary_on(1, 200));
    cluster.pass(Duration::from_secs(3));
    cluster.observe("a", primary_on(1, 300));
    cluster.observe("b", standby_at(100));
    let time = node(&cluster, "b").lag_time.unwrap();
    assert!((Duration::from_secs(3)..Duration::from_secs(4)).contains(&time), "{time:?}");
    cluster.observe("b", standby_at(200));
    assert!(node(&cluster, "b").lag_time.unwrap() < Duration::from_secs(1));
    cluster.observe("b", standby_at(300));
    assert_eq!(node(&cluster, "b").lag_time, Some(Duration::ZERO));
}

fn appoint(cluster: &mut Cluster, epoch: u64, primary: Option<&str>) {
    cluster.fold.appoint(Some(Appointment { epoch: Epoch(epoch), primary: primary.map(Into::into), held: false }));
    cluster.settle();
}

#[test]
fn with_a_coordinator_only_the_appointed_node_is_the_primary_and_only_once_it_says_so_itself() {
    let mut cluster = cluster(&["a", "b"]);
    appoint(&mut cluster, 3, None);
    cluster.observe("a", primary_on(1, 10));
    cluster.observe("b", standby_at(10));
    assert_eq!((primary(&cluster), cluster.view().epoch), (None, Epoch(3)));
    appoint(&mut cluster, 3, Some("a"));
    assert_eq!(primary(&cluster).as_deref(), Some("a"));
    // somebody promotes the other by hand: a newer timeline does not count
    cluster.observe("b", primary_on(2, 20));
    assert_eq!(primary(&cluster).as_deref(), Some("a"));
    assert!(cluster.view().node("b").unwrap().trouble.as_deref().unwrap().contains("not appointed"));
    // and the next in order
    cluster.observe("b", standby_at(20));
    appoint(&mut cluster, 4, Some("b"));
    assert_eq!((primary(&cluster), cluster.view().epoch), (None, Epoch(4)));
    cluster.observe("b", primary_on(2, 30));
    assert_eq!((primary(&cluster).as_deref(), cluster.view().epoch), (Some("b"), Epoch(4)));
}
