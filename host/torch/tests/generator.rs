//! Alone in its process, whose random numbers no other test draws.

use tch::{Device, Kind, Tensor};

#[test]
fn dropout_masks_leave_the_process_s_generator_alone() {
    let four = || Tensor::rand([4], (Kind::Float, Device::Cpu));
    tch::manual_seed(1);
    let next = four();
    tch::manual_seed(1);
    let like = Tensor::zeros([200, 300], (Kind::Float, Device::Cpu));
    let _mask = ovhost_torch::dropout_mask(&like, 0.25, 7).unwrap();
    assert!(four().equal(&next));
}
