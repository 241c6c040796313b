//! Where statements go: reads to standbys, everything else to the primary, and nobody sees the past.

use crate::support::wire::{self, Client};
use crate::support::{Cluster, Howdah, SOON, Tenant, eventually};

fn cluster() -> Cluster {
    Cluster::builder().standby("b").standby("c").start().unwrap_or_else(|error| panic!("{error}"))
}

fn login(howdah: &Howdah, tenant: &Tenant) -> Client {
    let mut client = Client::connect(("127.0.0.1", howdah.port())).unwrap();
    client.login(&tenant.name, &tenant.password, &tenant.name);
    client
}

const WHERE: &str = "SELECT pg_is_in_recovery()";

#[test]
fn reads_go_to_standbys_and_writes_to_the_primary() {
    let cluster = cluster();
    let tenant = Tenant::on(cluster.primary());
    cluster.wait_streaming(SOON).unwrap();
    let howdah = Howdah::before(cluster.nodes(), "");
    let mut client = login(&howdah, &tenant);
    eventually("reads go to a standby", SOON, || client.value(WHERE) == "t");
    assert_eq!(client.query_short("CREATE TABLE t (i int)"), ["C:CREATE TABLE", "Z:I"]);
    for i in 0..100 {
        client.query(&format!("INSERT INTO t VALUES ({i})"));
        assert_eq!(client.value("SELECT count(*) FROM t"), (i + 1).to_string());
    }
    eventually("it reads there again", SOON, || client.value(WHERE) == "t");
    assert_eq!(wire::first_column(&client.extended("SELECT pg_is_in_recovery()", &[])), ["t"]);
    client.query("BEGIN");
    assert_eq!(client.value(WHERE), "f");
    client.query("COMMIT");
    client.query("BEGIN READ ONLY");
    assert_eq!(client.value(WHERE), "t");
    client.query("COMMIT");
}
