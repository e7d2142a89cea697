use crate::catalog;
use crate::command::{Action, Refusal};
use crate::features;
use crate::ids::NodeId;
use crate::tables::authority::{AuthorityRow, PrivateKey};
use crate::tables::members::MemberState;
use crate::testing::{World, birth, node, public_key};

fn invalid(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::Invalid { .. })
}

#[test]
fn a_cluster_is_born_once() {
    let mut world = World::new();
    let again = Action::InitCluster { cluster_id: [8; 16], authority: None, founder: None };
    assert_eq!(world.refused(again), Refusal::AlreadyInitialized);
    assert_eq!(world.refused(birth()), Refusal::AlreadyInitialized);
    assert_eq!(catalog::system(&world.view).unwrap().cluster_id, [7; 16]);
}

#[test]
fn the_founder_is_the_first_member() {
    let mut world = World::unborn();
    world.done(birth());
    let members = catalog::members(&world.view).unwrap();
    let [(id, founder)] = members.as_slice() else { panic!("{members:?}") };
    assert_eq!((*id, founder.state), (NodeId(1), MemberState::Member));
    assert_eq!(founder.public_key_hash, public_key(1));
    let system = catalog::system(&world.view).unwrap();
    assert_eq!((system.next_node_id, system.level()), (2, features::ADMISSION));
    assert_eq!(catalog::authority(&world.view).unwrap().unwrap().certificate_der, vec![1; 400]);
    world.done(Action::RegisterNode { node: node(1) });
    assert_eq!(world.refused(Action::RegisterNode { node: node(2) }), Refusal::NotAMember);
}

#[test]
fn a_birth_that_makes_no_sense_is_refused() {
    let mut world = World::unborn();
    let Action::InitCluster { cluster_id, authority, founder } = birth() else { panic!() };
    let refused = |world: &mut World, cluster_id, authority, founder| {
        let refusal = world.refused(Action::InitCluster { cluster_id, authority, founder });
        assert!(invalid(&refusal), "{refusal:?}");
    };
    refused(&mut world, [0; 16], authority.clone(), founder);
    refused(&mut world, cluster_id, authority.clone(), None);
    refused(&mut world, cluster_id, None, founder);
    let authority = authority.unwrap();
    let no_key = AuthorityRow { key_der: PrivateKey(vec![]), ..authority.clone() };
    refused(&mut world, cluster_id, Some(no_key), founder);
    let huge = AuthorityRow { certificate_der: vec![0; 1 << 20], ..authority.clone() };
    refused(&mut world, cluster_id, Some(huge), founder);
    // Nobody else can be there before the founder.
    world.done(Action::RegisterNode { node: node(2) });
    refused(&mut world, cluster_id, Some(authority), founder);
}

#[test]
fn a_cluster_without_an_authority_goes_on_as_before() {
    let mut world = World::without_authority();
    assert_eq!(catalog::system(&world.view).unwrap().level(), features::FIRST);
    world.done(Action::RegisterNode { node: node(9) });
    assert_eq!(catalog::members(&world.view).unwrap(), []);
    let drain = Action::DrainNode { node: NodeId(2), actor: "operator".into() };
    assert_eq!(world.refused(drain), Refusal::UnknownNode);
}
