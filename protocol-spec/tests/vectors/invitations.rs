//! `invitations.json`.

use posta_protocol::codec::Writer;
use posta_protocol::crypto::{self, context};
use posta_protocol::end_to_end::QueueAddress;
use posta_protocol::ids::RelayId;
use posta_protocol::invitation::{Link, Offer};

use crate::boxes::{address, addresses_json};
use crate::files::vectors;
use crate::json::{Fields, Json, object};
use crate::recorder::Recorder;

pub(crate) fn make() -> Vec<Json> {
    [("an invitation to one queue", 1), ("an invitation to a pair of queues", 2)].map(one).into()
}

fn one((name, queues): (&str, usize)) -> Json {
    let rng = &mut Recorder::new("invitations", name);
    let relays = [rng.array(), rng.array()];
    let queues = (0..queues).map(|_| address(rng)).collect();
    let key_package = rng.bytes(100);
    let offer = Offer::new(queues, key_package, rng);
    let nonce = rng.take().remove(0);
    let mut data = Writer::default();
    data.bytes(&nonce);
    QueueAddress::write_list(&offer.queues, &mut data);
    data.bounded(&offer.key_package);
    let data = data.finish();
    let link = offer.link(relays.map(RelayId));
    let blob = offer.seal(&link, rng).unwrap();
    let blob_nonce = rng.take().remove(0);

    let secret = *crypto::derive(context::INVITATION_DATA, &data).expose();
    let mut capability = Writer::default();
    link.capability().write(&mut capability);
    object! {
        "name": name,
        "relays": relays.map(Json::from).to_vec(),
        "nonce": nonce,
        "queues": addresses_json(&offer.queues),
        "key_package": offer.key_package,
        "offer": data,
        "secret": secret,
        "link": link.to_text(),
        "get_capability": capability.finish(),
        "blob_id": link.capability().id().0,
        "seal_key": *crypto::derive(context::INVITATION_SEAL, &secret).expose(),
        "blob_nonce": blob_nonce,
        "blob": blob,
    }
}

#[test]
fn invitations_open_from_the_file_alone() {
    for vector in vectors("invitations") {
        let link: Link = vector.at("link").text().parse().unwrap();
        assert_eq!(link.to_text(), vector.at("link").text());
        for relay in vector.at("relays").items() {
            assert!(link.names(&RelayId(relay.array())));
        }
        assert_eq!(link.capability().id().0, vector.at("blob_id").array());
        let offer = link.open(&vector.at("blob").bytes()).unwrap();
        assert_eq!(&Json::from(addresses_json(&offer.queues)).value(), vector.at("queues"));
        assert_eq!(offer.key_package, vector.at("key_package").bytes());
    }
}
