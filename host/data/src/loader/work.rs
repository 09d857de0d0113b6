//! Worker threads: jobs in, one answer each on the job's own channel.
//!
//! Order is kept by who waits for what: the one that gives out jobs queues the answer channels in order, so results
//! need no sorting and the queue's bound is the back-pressure. Decoding has precedence: it is closest to the model.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, never, select};

use crate::DataError;
use crate::image::ImageProcessor;
use crate::pipeline::{EncodedSample, Item, Outcome, RowPipeline};
use crate::record::Reject;

/// Make samples.
pub struct EncodeJob {
    pub items: Vec<Item>,
    pub reply: Sender<Result<Vec<Outcome>, DataError>>,
}

/// Decode the pictures of a pack.
pub struct DecodeJob {
    pub samples: Vec<EncodedSample>,
    pub reply: Sender<Result<DecodedBin, DataError>>,
}

/// A pack with its pixels. Samples whose pictures turned out corrupt are in `rejects` instead.
#[derive(Default)]
pub struct DecodedBin {
    pub samples: Vec<EncodedSample>,
    pub pixel_values: Vec<f32>,
    pub grid_thw: Vec<[i64; 3]>,
    pub rejects: Vec<Reject>,
}

/// Starts one thread per pipeline. They end when all senders of both channels are gone.
pub fn start(
    pipelines: Vec<RowPipeline>,
    images: &Arc<ImageProcessor>,
    blank: bool,
    encode: &Receiver<EncodeJob>,
    decode: &Receiver<DecodeJob>,
) -> Result<Vec<JoinHandle<()>>, DataError> {
    let spawn = |(i, pipeline)| {
        let (images, encode, decode) = (images.clone(), encode.clone(), decode.clone());
        std::thread::Builder::new()
            .name(format!("data-{i}"))
            .spawn(move || work(pipeline, &images, blank, encode, decode))
            .map_err(|e| DataError::Worker(format!("cannot start a thread: {e}; lower data.workers")))
    };
    pipelines.into_iter().enumerate().map(spawn).collect()
}

fn work(
    mut pipeline: RowPipeline,
    images: &ImageProcessor,
    blank: bool,
    mut encode: Receiver<EncodeJob>,
    mut decode: Receiver<DecodeJob>,
) {
    let mut open = 2;
    while open > 0 {
        if let Ok(job) = decode.try_recv() {
            run_decode(job, images, blank);
            continue;
        }
        select! {
            recv(decode) -> job => match job {
                Ok(job) => run_decode(job, images, blank),
                Err(_) => { decode = never(); open -= 1; }
            },
            recv(encode) -> job => match job {
                Ok(job) => {
                    // A receiver that went away is a loader being dropped.
                    let _ = job.reply.send(guard(|| pipeline.run(&job.items)));
                }
                Err(_) => { encode = never(); open -= 1; }
            },
        }
    }
}

fn run_decode(job: DecodeJob, images: &ImageProcessor, blank: bool) {
    let _ = job.reply.send(guard(|| Ok(decode_bin(job.samples, images, blank))));
}

/// A panic (a defect of ours or of a library) becomes an error of the run instead of a silent hang.
fn guard<T>(f: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    std::panic::catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
        Err(DataError::Worker(text.unwrap_or_else(|| "panic without a message".into())))
    })
}

/// Decodes a pack in order. `blank`: pictures of the right size with nothing on them.
pub fn decode_bin(samples: Vec<EncodedSample>, images: &ImageProcessor, blank: bool) -> DecodedBin {
    let mut bin = DecodedBin::default();
    // All at once: a pack of 8,192 tokens is tens of megabytes, and growing would copy them several times.
    let patches: usize = samples.iter().map(|s| s.patches as usize).sum();
    bin.pixel_values.reserve_exact(patches * images.patch_dim());
    'samples: for sample in samples {
        let (pixels, grids) = (bin.pixel_values.len(), bin.grid_thw.len());
        for image in &sample.images {
            if let Err(reason) = decode_image(image, images, blank, &mut bin) {
                bin.pixel_values.truncate(pixels);
                bin.grid_thw.truncate(grids);
                let (key, shard) = (sample.key.clone(), sample.source.clone());
                bin.rejects.push(Reject { key, shard, stage: "decode", reason });
                continue 'samples;
            }
        }
        bin.samples.push(sample);
    }
    bin
}

fn decode_image(
    image: &crate::pipeline::SampleImage,
    images: &ImageProcessor,
    blank: bool,
    bin: &mut DecodedBin,
) -> Result<(), String> {
    let media = &image.media;
    let named = |e: crate::image::ImageError| format!("image {}: {e}", media.name);
    let out = &mut bin.pixel_values;
    let grid =
        if blank { images.blank_to(media.width, media.height, out) } else { images.process_to(&media.bytes, out) };
    let grid = grid.map_err(named)?;
    let merge = images.merge_size as i64;
    let tokens = grid.iter().product::<i64>() / (merge * merge);
    if tokens != image.tokens as i64 {
        return Err(format!(
            "image {}: its header says {}x{} ({} tokens), decoded it has {tokens} tokens; the file contradicts itself",
            media.name, media.width, media.height, image.tokens
        ));
    }
    bin.grid_thw.push(grid);
    Ok(())
}
