// The Python adapter: addresses in device memory in, queued work out. dartblur_ops/cuda.py validates.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>

#include <pybind11/stl.h>

#include "core/letterbox.h"
#include "ops.h"

namespace py = pybind11;
using namespace py::literals;
using namespace dartblur;

namespace {

using Address = std::uintptr_t;
// As in the stub _cuda.pyi.
using FramesArgument = std::tuple<Address, int, int, int, std::ptrdiff_t, std::ptrdiff_t>;
using SlotsArgument = std::tuple<Address, Address, int, float, float>;

MutableFrames mutable_frames(const FramesArgument& a) {
    return {reinterpret_cast<std::uint8_t*>(std::get<0>(a)), std::get<1>(a), std::get<2>(a), std::get<3>(a),
            std::get<4>(a), std::get<5>(a)};
}

Frames frames_of(const FramesArgument& a) {
    const MutableFrames frames = mutable_frames(a);
    return {frames.data, frames.count, frames.height, frames.width, frames.stride, frames.step};
}

Slots slots_of(const SlotsArgument& a) {
    static_assert(sizeof(Box) == 4 * sizeof(float), "a row of the box array is a Box");
    return {reinterpret_cast<const Box*>(std::get<0>(a)), reinterpret_cast<const float*>(std::get<1>(a)),
            std::get<2>(a), std::get<3>(a), std::get<4>(a)};
}

template <class Value>
Patches<Value> patches_of(Address address, int side, int margin, float context) {
    return {reinterpret_cast<Value*>(address), side, margin, context};
}

cudaStream_t stream_of(Address stream) { return reinterpret_cast<cudaStream_t>(stream); }

void check(cudaError_t status) {
    if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

// Makes a device the current one while work is queued.
class OnDevice {
  public:
    explicit OnDevice(int device) : device_(device) {
        check(cudaGetDevice(&before_));
        if (before_ != device_) check(cudaSetDevice(device_));
    }
    ~OnDevice() {
        if (before_ != device_) cudaSetDevice(before_);
    }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

  private:
    int device_, before_ = 0;
};

// Memory that is taken and given back in the order of the stream; without memory pools, the device is waited for.
class Scratch {
  public:
    Scratch(std::size_t bytes, int device, cudaStream_t stream) : stream_(stream) {
        int pools = 0;
        check(cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, device));
        pooled_ = pools != 0;
        if (bytes) check(pooled_ ? cudaMallocAsync(&data_, bytes, stream_) : cudaMalloc(&data_, bytes));
    }
    ~Scratch() {
        if (data_) pooled_ ? cudaFreeAsync(data_, stream_) : cudaFree(data_);
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

    void* data() const { return data_; }

  private:
    cudaStream_t stream_;
    bool pooled_ = false;
    void* data_ = nullptr;
};

// The reason why the operations can't run here, or nothing.
std::string unusable() {
    const cudaError_t status = cuda::usable();
    cudaGetLastError();  // a refusal must not be found again by the next caller
    return status == cudaSuccess ? "" : cudaGetErrorString(status);
}

// Which device an address can be reached from, or -1.
int device_of(Address address) {
    cudaPointerAttributes attributes{};
    const cudaError_t status = cudaPointerGetAttributes(&attributes, reinterpret_cast<const void*>(address));
    if (status != cudaSuccess) cudaGetLastError();
    if (status != cudaSuccess || attributes.type == cudaMemoryTypeUnregistered) return -1;
    return attributes.devicePointer ? attributes.device : -1;
}

// Lets a stream wait for what another one has under way.
void wait(int device, Address stream, Address other) {
    const OnDevice current(device);
    cudaEvent_t event{};
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
    cudaError_t status = cudaEventRecord(event, stream_of(other));
    if (status == cudaSuccess) status = cudaStreamWaitEvent(stream_of(stream), event, 0);
    cudaEventDestroy(event);
    check(status);
}

void composite(int device, Address stream, const FramesArgument& frames, const SlotsArgument& slots, Address patches,
               bool half, int side, int margin, float context, bool ellipse, float feather) {
    py::gil_scoped_release unlocked;
    const OnDevice current(device);
    const Shape shape{ellipse, feather};
    check(half ? cuda::composite(mutable_frames(frames), patches_of<const __half>(patches, side, margin, context),
                                 slots_of(slots), shape, stream_of(stream))
               : cuda::composite(mutable_frames(frames), patches_of<const float>(patches, side, margin, context),
                                 slots_of(slots), shape, stream_of(stream)));
}

double letterbox(int device, Address stream, const FramesArgument& frames, Address out, int height, int width) {
    py::gil_scoped_release unlocked;
    const OnDevice current(device);
    const Frames batch = frames_of(frames);
    check(cuda::letterbox(batch, reinterpret_cast<float*>(out), height, width, stream_of(stream)));
    return letterbox_of(batch.height, batch.width, height, width).scale;
}

void crop_faces(int device, Address stream, const FramesArgument& frames, const SlotsArgument& slots, Address out,
                int side, int margin, float context, bool blur) {
    py::gil_scoped_release unlocked;
    const OnDevice current(device);
    const Frames batch = frames_of(frames);
    const Slots boxes = slots_of(slots);
    const std::size_t bytes = blur ? cuda::crop_faces_scratch_bytes(batch.count, boxes.count, side, margin) : 0;
    const Scratch scratch(bytes, device, stream_of(stream));
    check(cuda::crop_faces(batch, boxes, patches_of<float>(out, side, margin, context), blur, scratch.data(),
                           stream_of(stream)));
}

void gaussian(int device, Address stream, const FramesArgument& frames, const SlotsArgument& slots) {
    py::gil_scoped_release unlocked;
    const OnDevice current(device);
    const MutableFrames batch = mutable_frames(frames);
    const Slots boxes = slots_of(slots);
    const Scratch scratch(cuda::gaussian_scratch_bytes(batch.count, boxes.count, batch.height, batch.width), device,
                          stream_of(stream));
    check(cuda::gaussian(batch, boxes, scratch.data(), stream_of(stream)));
}

void pixelate(int device, Address stream, const FramesArgument& frames, const SlotsArgument& slots, int blocks) {
    py::gil_scoped_release unlocked;
    const OnDevice current(device);
    check(cuda::pixelate(mutable_frames(frames), slots_of(slots), blocks, stream_of(stream)));
}

void solid(int device, Address stream, const FramesArgument& frames, const SlotsArgument& slots, std::uint8_t blue,
           std::uint8_t green, std::uint8_t red) {
    py::gil_scoped_release unlocked;
    const OnDevice current(device);
    const std::uint8_t color[kChannels] = {blue, green, red};
    check(cuda::solid(mutable_frames(frames), slots_of(slots), color, stream_of(stream)));
}

}  // namespace

PYBIND11_MODULE(_cuda, module) {
    module.attr("MAX_FRAMES") = cuda::kMaxFrames;
    module.attr("MAX_SLOTS") = cuda::kMaxSlots;
    module.def("architectures", &cuda::architectures);
    module.def("unusable", &unusable);
    module.def("device_of", &device_of, "address"_a);
    module.def("wait", &wait, "device"_a, "stream"_a, "other"_a);
    module.def("composite", &composite, "device"_a, "stream"_a, "frames"_a, "slots"_a, "patches"_a, "half"_a, "side"_a,
               "margin"_a, "context"_a, "ellipse"_a, "feather"_a);
    module.def("letterbox", &letterbox, "device"_a, "stream"_a, "frames"_a, "out"_a, "height"_a, "width"_a);
    module.def("crop_faces", &crop_faces, "device"_a, "stream"_a, "frames"_a, "slots"_a, "out"_a, "side"_a, "margin"_a,
               "context"_a, "blur"_a);
    module.def("gaussian", &gaussian, "device"_a, "stream"_a, "frames"_a, "slots"_a);
    module.def("pixelate", &pixelate, "device"_a, "stream"_a, "frames"_a, "slots"_a, "blocks"_a);
    module.def("solid", &solid, "device"_a, "stream"_a, "frames"_a, "slots"_a, "blue"_a, "green"_a, "red"_a);
}
