// The Python adapter: arrays in, pointers out. dartblur_ops/__init__.py validates; the loops run without the GIL.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <array>
#include <cstdint>

#include <pybind11/stl.h>

#include "ops.h"

namespace py = pybind11;
using namespace py::literals;

namespace {

using Bytes = py::array_t<std::uint8_t, 0>;
using Floats = py::array_t<float, py::array::c_style>;
using Color = std::array<std::uint8_t, dartblur::kChannels>;
static_assert(sizeof(dartblur::Box) == 4 * sizeof(float), "a row of the box array is a Box");

int size(const py::array& array, int axis) { return static_cast<int>(array.shape(axis)); }

dartblur::Frame frame_of(const Bytes& array) {
    return {array.data(), size(array, 0), size(array, 1), array.strides(0)};
}

dartblur::MutableFrame mutable_frame_of(Bytes& array) {
    return {array.mutable_data(), size(array, 0), size(array, 1), array.strides(0)};
}

dartblur::Boxes boxes_of(const Floats& array) {
    return {reinterpret_cast<const dartblur::Box*>(array.data()), array.shape(0)};
}

double letterbox(const Bytes& frame, Floats& out) {
    const auto image = frame_of(frame);
    float* planes = out.mutable_data();
    const int height = size(out, 1), width = size(out, 2);
    py::gil_scoped_release unlocked;
    return dartblur::letterbox(image, planes, height, width);
}

void crop_faces(const Bytes& frame, const Floats& boxes, Floats& out, int margin, float context, bool blur) {
    const auto image = frame_of(frame);
    const auto faces = boxes_of(boxes);
    const dartblur::Patches<float> patches{out.mutable_data(), size(out, 3), margin, context};
    py::gil_scoped_release unlocked;
    dartblur::crop_faces(image, faces, patches, blur);
}

void composite(Bytes& frame, const Floats& patches, const Floats& boxes, int margin, float context, bool ellipse,
               float feather) {
    const auto image = mutable_frame_of(frame);
    const auto faces = boxes_of(boxes);
    const dartblur::Patches<const float> squares{patches.data(), size(patches, 3), margin, context};
    py::gil_scoped_release unlocked;
    dartblur::composite(image, squares, faces, {ellipse, feather});
}

void gaussian(Bytes& frame, const Floats& boxes) {
    const auto image = mutable_frame_of(frame);
    const auto faces = boxes_of(boxes);
    py::gil_scoped_release unlocked;
    dartblur::gaussian(image, faces);
}

void pixelate(Bytes& frame, const Floats& boxes, int blocks) {
    const auto image = mutable_frame_of(frame);
    const auto faces = boxes_of(boxes);
    py::gil_scoped_release unlocked;
    dartblur::pixelate(image, faces, blocks);
}

void solid(Bytes& frame, const Floats& boxes, Color color) {
    const auto image = mutable_frame_of(frame);
    const auto faces = boxes_of(boxes);
    py::gil_scoped_release unlocked;
    dartblur::solid(image, faces, color.data());
}

template <class Byte, class Array, class Data>
dartblur::Yuv420<Byte> yuv_of(Array& y, Array& u, Array& v, Data data) {
    const int step = size(u, 1) > 1 ? static_cast<int>(u.strides(1)) : 1;
    return {{data(y), y.strides(0)}, {data(u), u.strides(0)}, {data(v), v.strides(0)}, step};
}

void yuv_to_bgr(const Bytes& y, const Bytes& u, const Bytes& v, double red, double blue, bool full, Bytes& out) {
    const auto planes = yuv_of<const std::uint8_t>(y, u, v, [](const Bytes& plane) { return plane.data(); });
    const auto image = mutable_frame_of(out);
    py::gil_scoped_release unlocked;
    dartblur::yuv_to_bgr(planes, {red, blue, full}, image);
}

void bgr_to_yuv(const Bytes& frame, double red, double blue, bool full, Bytes& y, Bytes& u, Bytes& v) {
    const auto image = frame_of(frame);
    const auto planes = yuv_of<std::uint8_t>(y, u, v, [](Bytes& plane) { return plane.mutable_data(); });
    py::gil_scoped_release unlocked;
    dartblur::bgr_to_yuv(image, {red, blue, full}, planes);
}

}  // namespace

PYBIND11_MODULE(_native, module) {
    const auto frame = "frame"_a.noconvert();
    const auto boxes = "boxes"_a.noconvert();
    const auto patches = "patches"_a.noconvert();
    const auto out = "out"_a.noconvert();
    module.def("patch_margin", &dartblur::patch_margin, "side"_a, "context"_a);
    module.def("letterbox", &letterbox, frame, out);
    module.def("crop_faces", &crop_faces, frame, boxes, out, "margin"_a, "context"_a, "blur"_a);
    module.def("composite", &composite, frame, patches, boxes, "margin"_a, "context"_a, "ellipse"_a, "feather"_a);
    module.def("gaussian", &gaussian, frame, boxes);
    module.def("pixelate", &pixelate, frame, boxes, "blocks"_a);
    module.def("solid", &solid, frame, boxes, "color"_a);
    const auto y = "y"_a.noconvert(), u = "u"_a.noconvert(), v = "v"_a.noconvert();
    module.def("yuv_to_bgr", &yuv_to_bgr, y, u, v, "red"_a, "blue"_a, "full"_a, out);
    module.def("bgr_to_yuv", &bgr_to_yuv, frame, "red"_a, "blue"_a, "full"_a, y, u, v);
}
