//! Logs and tables that earlier versions have written can still be read. The bytes were written by those versions.

use serde::de::DeserializeOwned;

use crate::codec;
use crate::command::{Action, Command};
use crate::features;
use crate::ids::ClientId;
use crate::tables::nodes::NodeRow;
use crate::tables::system::SystemRow;
use crate::testing::node;

fn decode<T: DeserializeOwned>(hexadecimal: &str) -> T {
    let digits: String = hexadecimal.split_whitespace().collect();
    codec::decode(&hex::decode(digits).unwrap()).unwrap()
}

fn command(action: Action) -> Command {
    let client = ClientId([1; 16]);
    Command { client, sequence: 3, answered_below: 2, time_ms: 1_700_000_000_000, action }
}

#[test]
fn births_from_before_there_was_an_authority() {
    let read: Command = decode(
        "0185a6636c69656e74c41001010101010101010101010101010101a873657175656e636503ae616e7377657265645f
         62656c6f7702a774696d655f6d73cf0000018bcfe56800a6616374696f6e81ac696e69745f636c757374657281aa63
         6c75737465725f6964dc001007070707070707070707070707070707",
    );
    let birth = Action::InitCluster { cluster_id: [7; 16], authority: None, founder: None };
    assert_eq!(read, command(birth));
}

#[test]
fn registrations_from_before_there_were_feature_levels() {
    let read: Command = decode(
        "0185a6636c69656e74c41001010101010101010101010101010101a873657175656e636503ae616e7377657265645f
         62656c6f7702a774696d655f6d73cf0000018bcfe56800a6616374696f6e81ad72656769737465725f6e6f646581a4
         6e6f646588a2696402a46e616d65a66e6f64652d32a47a6f6e65a67a6f6e652d32a5726f6c657393a573746f7265a7
         67617465776179aa7472616e73636f646572a8687474705f75726cb5687474703a2f2f3132372e302e302e313a3830
         3832a87270635f61646472ae3132372e302e302e313a39303832a776657273696f6ea5302e312e30ae636170616369
         74795f6279746573cf0000010000000000",
    );
    let old = NodeRow { feature_level: 0, ..node(2) };
    assert_eq!(old.level(), features::FIRST);
    assert_eq!(read, command(Action::RegisterNode { node: old }));
}

#[test]
fn rows_from_before_there_was_admission() {
    let system: SystemRow = decode(
        "0184aa636c75737465725f6964dc001007070707070707070707070707070707a774696d655f6d7305a46a6f627302
         ae73657373696f6e5f637572736f72c0",
    );
    let expected = SystemRow { cluster_id: [7; 16], time_ms: 5, jobs: 2, ..SystemRow::default() };
    assert_eq!(system, expected);
    assert_eq!(system.level(), features::FIRST);
    let row: NodeRow = decode(
        "0188a2696403a46e616d65a66e6f64652d33a47a6f6e65a67a6f6e652d33a5726f6c657393a573746f7265a7676174
         65776179aa7472616e73636f646572a8687474705f75726cb5687474703a2f2f3132372e302e302e313a38303833a8
         7270635f61646472ae3132372e302e302e313a39303833a776657273696f6ea5302e312e30ae63617061636974795f
         6279746573cf0000010000000000",
    );
    assert_eq!(row, NodeRow { feature_level: 0, ..node(3) });
}
