//! A contact that breaks the rules, with all that openmls lets it do.

use openmls::prelude::NewSignerBundle;

use super::*;

/// The inviter and the follower of the invitation, joined.
fn pair() -> [Mls; 2] {
    let [mut a, mut b] = [Mls::new().unwrap(), Mls::new().unwrap()];
    let welcome = b.found(&a.key_package().unwrap()).unwrap();
    a.join(&welcome).unwrap();
    [a, b]
}

fn refused_without_change(end: &mut Mls, commit: &[u8]) {
    let before = end.save();
    assert_eq!(end.follow(commit), Err(Unopened::Refused));
    assert!(end.save() == before, "changed by what was refused");
}

#[test]
fn a_turn_that_adds_a_member_is_refused() {
    let [mut a, mut b] = pair();
    let mut third = Mls::new().unwrap();
    let package = third.key_package().unwrap();
    let package = KeyPackageIn::tls_deserialize(&mut package.as_slice()).unwrap();
    let package = package.validate(a.provider.crypto(), ProtocolVersion::Mls10).unwrap();
    let group = a.group.as_mut().unwrap();
    let (commit, _, _) = group.add_members(&a.provider, &MlsSigner(&a.key), &[package]).unwrap();
    refused_without_change(&mut b, &commit.to_bytes().unwrap());
    // Control: an honest turn from the same epoch is followed.
    group.clear_pending_commit(a.provider.storage()).unwrap();
    b.follow(&a.commit().unwrap()).unwrap();
    assert_eq!(*b.open(&a.seal(b"on").unwrap()).unwrap().1, b"on");
}

#[test]
fn a_turn_that_removes_us_is_refused() {
    let [mut a, mut b] = pair();
    let group = a.group.as_mut().unwrap();
    let other = group.members().find(|m| m.index != group.own_leaf_index()).unwrap().index;
    let (commit, _, _) = group.remove_members(&a.provider, &MlsSigner(&a.key), &[other]).unwrap();
    refused_without_change(&mut b, &commit.to_bytes().unwrap());
}

#[test]
fn a_turn_that_changes_the_signature_key_is_refused() {
    let [mut a, mut b] = pair();
    let new = Mls::new().unwrap();
    let bundle = NewSignerBundle { signer: &MlsSigner(&new.key), credential_with_key: new.credential() };
    let group = a.group.as_mut().unwrap();
    let made = group
        .self_update_with_new_signer(&a.provider, &MlsSigner(&a.key), bundle, LeafNodeParameters::default())
        .unwrap();
    refused_without_change(&mut b, &made.commit().to_bytes().unwrap());
}

#[test]
fn a_key_package_of_another_suite_founds_nothing() {
    let other = Mls::new().unwrap();
    let package = KeyPackage::builder()
        .build(
            Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
            &other.provider,
            &MlsSigner(&other.key),
            other.credential(),
        )
        .unwrap();
    let package = package.key_package().tls_serialize_detached().unwrap();
    let mut joiner = Mls::new().unwrap();
    let before = joiner.save();
    assert_eq!(joiner.found(&package), Err(Unopened::Refused));
    assert!(joiner.save() == before);
}

#[test]
fn a_proposal_alone_is_refused() {
    let [mut a, mut b] = pair();
    let group = a.group.as_mut().unwrap();
    let (proposal, _) =
        group.propose_self_update(&a.provider, &MlsSigner(&a.key), LeafNodeParameters::default()).unwrap();
    let proposal = proposal.to_bytes().unwrap();
    refused_without_change(&mut b, &proposal);
    assert_eq!(b.open(&proposal).map(drop), Err(Unopened::Refused));
}
