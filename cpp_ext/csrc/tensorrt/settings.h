// The plugin's fields: in the graph they are the node's attributes, in an engine what is stored of the plugin.
#pragma once

#include <NvInferRuntime.h>

#include <array>
#include <cstdint>

namespace dartblur::trt {

struct Settings {
    float threshold;      // lowest score of a slot that is overwritten
    float box_scale;      // how much larger than the face the overwritten box is
    float context;        // side of the area that a patch shows over the side of the box
    std::int32_t margin;  // pixels of context on each side of a patch's face square
};

constexpr int kFields = 4;
using Fields = std::array<nvinfer1::PluginField, kFields>;

// Fields with the values of `settings`, which must stay where they are; none: names and types alone.
Fields fields_of(const Settings* settings) noexcept;

// Whether `given` are all the fields, each once, in range, and no others; what is wrong is reported.
bool read_fields(const nvinfer1::PluginFieldCollection* given, Settings& settings) noexcept;

}  // namespace dartblur::trt
