//! Who a leader takes for a member.

use common::ids::ServerId;

use super::cluster::info;
use super::*;
use crate::membership::admit;

/// Two load balancers ask for the same server; the second does so when its
/// admission has just been committed, in the same turn.
#[test]
fn a_server_is_admitted_once_also_before_its_admission_is_applied() {
    let mut cluster = Cluster::led(1);
    cluster.slow_disk(1);
    let now = cluster.now();
    assert_eq!(admit(cluster.driver(1), now, &info(2)), None, "it is on the way");
    cluster.turn(1);
    cluster.finish_write(1);
    assert_eq!(admit(cluster.driver(1), now, &info(2)), Some(Ok(ServerId(2))));
    assert_eq!(cluster.driver(1).members().len(), 2);
}
