//! The names in certificates: which node of which cluster, as a DNS name that nobody ever looks up.

use cluster::ids::NodeId;

/// The last label of all names. No top-level domain has this name.
const ROOT: &str = "reelraft";

/// What one node of a cluster is called.
#[must_use]
pub fn node(cluster_id: [u8; 16], node: NodeId) -> String {
    format!("node-{node}.{}.{ROOT}", hex::encode(cluster_id))
}

/// What every node of a cluster is called: for those who have to reach any of them and do not know which one it will be.
#[must_use]
pub fn member(cluster_id: [u8; 16]) -> String {
    format!("member.{}.{ROOT}", hex::encode(cluster_id))
}

/// The cluster and the node that a name of [`node()`] stands for.
#[must_use]
pub fn parse_node(name: &str) -> Option<([u8; 16], NodeId)> {
    let mut labels = name.split('.');
    let (first, cluster, root) = (labels.next()?, labels.next()?, labels.next()?);
    if root != ROOT || labels.next().is_some() {
        return None;
    }
    let mut cluster_id = [0; 16];
    hex::decode_to_slice(cluster, &mut cluster_id).ok()?;
    let id = NodeId(first.strip_prefix("node-")?.parse().ok()?);
    // One spelling for one node.
    (id.0 != 0 && node(cluster_id, id) == name).then_some((cluster_id, id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_which_node_of_which_cluster() {
        let name = node([0xab; 16], NodeId(12));
        assert_eq!(name, format!("node-12.{}.reelraft", "ab".repeat(16)));
        assert_eq!(parse_node(&name), Some(([0xab; 16], NodeId(12))));
    }

    #[test]
    fn other_names_are_no_nodes() {
        let cluster = "ab".repeat(16);
        for name in [
            member([0xab; 16]),
            format!("node-0.{cluster}.reelraft"),
            format!("node-01.{cluster}.reelraft"),
            format!("node-+1.{cluster}.reelraft"),
            format!("node-1.{}.reelraft", "AB".repeat(16)),
            format!("node-1.{cluster}.reelraft.example"),
            format!("node-1.{cluster}"),
            format!("node-1.{cluster}aa.reelraft"),
            "node-1".to_owned(),
            String::new(),
        ] {
            assert_eq!(parse_node(&name), None, "{name}");
        }
    }
}
