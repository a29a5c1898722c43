//! Bytes that are no message, on every procedure: the sender is told so, and nobody else notices.

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::scripted::{request, serve, submit, within};

/// Bytes as they are.
#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// How a call with these bytes ends.
async fn send(channel: &Channel, path: &str, bytes: &[u8]) -> Code {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.expect("the channel is open");
    let said = futures::stream::iter([Bytes::copy_from_slice(bytes)]);
    let path = path.parse().expect("a path");
    match client.streaming(Request::new(said), path, Raw).await {
        Err(status) => status.code(),
        Ok(reply) => {
            let mut messages = reply.into_inner();
            loop {
                match messages.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Code::Ok,
                    Err(status) => return status.code(),
                }
            }
        }
    }
}

/// Every procedure of ours.
fn procedures() -> Vec<String> {
    let described = prost_types::FileDescriptorSet::decode(fleet_wire::DESCRIPTORS).expect("our own");
    let services =
        described.file.iter().flat_map(|file| file.service.iter().map(move |service| (file, service)));
    let of = |(file, service): (&prost_types::FileDescriptorProto, &prost_types::ServiceDescriptorProto)| {
        let prefix = format!("/{}.{}", file.package(), service.name());
        service.method.iter().map(|method| format!("{prefix}/{}", method.name())).collect::<Vec<_>>()
    };
    services.flat_map(of).collect()
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_senders_fault_on_every_procedure() {
    let served = serve().await;
    let nested = vec![0x0b; 10_000];
    let cases: [&[u8]; 6] = [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0a\x05ab",
        b"\x07",
        b"\x08",
        &nested,
    ];
    let procedures = procedures();
    assert!(procedures.len() > 15, "{procedures:?}");
    for path in &procedures {
        for bytes in cases {
            let code = within(send(&served.channel, path, bytes)).await;
            // Embedded mode serves neither administration nor enrolment.
            let expected = [Code::InvalidArgument, Code::Unimplemented];
            assert!(expected.contains(&code), "{path}: {code:?} for {bytes:x?}");
        }
    }
    submit(&served.channel, request("k")).await.expect("nobody else notices");
}

#[tokio::test]
async fn text_that_is_no_utf8_and_messages_above_the_bound_are_refused() {
    let served = serve().await;
    let bad_text = b"\x0a\x02\xff\xfe";
    for procedure in ["Submit", "Cancel", "Show", "Events", "Logs", "Why"] {
        let path = format!("/fleet.v1.Runs/{procedure}");
        assert_eq!(within(send(&served.channel, &path, bad_text)).await, Code::InvalidArgument, "{path}");
    }
    let large = vec![0; fleet_wire::MAX_MESSAGE + 1];
    assert_eq!(within(send(&served.channel, "/fleet.v1.Runs/Submit", &large)).await, Code::OutOfRange);
    assert_eq!(within(send(&served.channel, "/fleet.v1.Workers/Session", &large)).await, Code::OutOfRange);
}
