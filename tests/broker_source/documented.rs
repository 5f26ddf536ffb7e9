//! What the broker's page says of its metrics.

use std::collections::BTreeSet;

use oci_secrets::broker::metrics::Metrics;
use oci_secrets::broker::nri_metrics;
use oci_secrets::broker::source::Shared;
use oci_secrets::nri::Snapshot;

use super::Site;

const PAGE: &str = include_str!("../../packaging/docs/broker.md");

#[test]
fn the_page_shows_every_metric() {
    let site = Site::new();
    let source = Shared::open(&site.settings("", "sealed-values-for = '1h'")).unwrap();
    let metrics = Metrics::default();
    // What has labels appears when it is counted.
    metrics.start("delivered", 0.002);
    metrics.reload(true);
    let plugin = nri_metrics::samples(&Snapshot::default());
    let text = metrics.to_text(0, source.metrics().into_iter().chain(plugin).collect());
    let served: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE oci_secrets_broker_")?.split_once(' '))
        .map(|(name, _)| name)
        .collect();
    let tables = PAGE.split("\n## ").filter(|part| part.starts_with("Metrics"));
    let rows = tables.flat_map(|part| part.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')));
    let shown: Vec<&str> = rows.map(|(name, _)| name).collect();
    assert!(served.contains("starts") && served.contains("sealed_values"), "{text}");
    assert_eq!(shown.iter().copied().collect::<BTreeSet<_>>(), served);
    assert_eq!(shown.len(), served.len(), "one row each: {shown:?}");
}
