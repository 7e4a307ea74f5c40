#include "plugin.h"

#include <limits>
#include <new>

#include "device.h"
#include "report.h"
#include "shapes.h"

namespace dartblur::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

constexpr std::int32_t kDone = 0, kFailed = 1;  // what TensorRT takes for success and for an error

bool is_real(DataType type) { return type == DataType::kFLOAT || type == DataType::kHALF; }

Real real_of(DataType type) { return type == DataType::kHALF ? Real::kHalf : Real::kSingle; }

bool expect_counts(std::int32_t inputs, std::int32_t outputs) {
    if (inputs == kInputs && outputs == kOutputs) return true;
    report("DartBlurComposite: expected the inputs frames, patches, boxes and scores and one output, got %d and %d: "
           "export the graph again", inputs, outputs);
    return false;
}

}  // namespace

nvinfer1::IPluginCapability* CompositePlugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
    switch (type) {
        case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
        case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3* CompositePlugin::clone() noexcept { return new (std::nothrow) CompositePlugin(settings_); }

std::int32_t CompositePlugin::getNbOutputs() const noexcept { return kOutputs; }

std::int32_t CompositePlugin::getOutputDataTypes(DataType* output_types, std::int32_t outputs,
                                                 const DataType* input_types, std::int32_t inputs) const noexcept {
    if (!expect_counts(inputs, outputs)) return kFailed;
    if (!is_real(input_types[kFrames])) {
        report("DartBlurComposite: frames: expected float32 or float16, got type %d: cast the network's uint8 input "
               "first", static_cast<int>(input_types[kFrames]));
        return kFailed;
    }
    output_types[0] = input_types[kFrames];
    return kDone;
}

std::int32_t CompositePlugin::getOutputShapes(const nvinfer1::DimsExprs* in, std::int32_t inputs,
                                              const nvinfer1::DimsExprs*, std::int32_t, nvinfer1::DimsExprs* out,
                                              std::int32_t outputs, nvinfer1::IExprBuilder&) noexcept {
    if (!expect_counts(inputs, outputs)) return kFailed;
    const Shapes shapes = shapes_of([in](int input) { return known(in[input]); });
    if (!check(shapes, settings_.margin)) return kFailed;
    out[0] = in[kFrames];
    return kDone;
}

bool CompositePlugin::supportsFormatCombination(std::int32_t pos, const DynamicPluginTensorDesc* in_out,
                                                std::int32_t inputs, std::int32_t outputs) noexcept {
    if (inputs != kInputs || outputs != kOutputs || pos < 0 || pos >= kInputs + kOutputs) return false;
    const PluginTensorDesc& tensor = in_out[pos].desc;
    if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
    switch (pos) {
        case kFrames:
        case kPatches: return is_real(tensor.type);
        case kBoxes:
        case kScores: return tensor.type == DataType::kFLOAT;
        default: return tensor.type == in_out[kFrames].desc.type;
    }
}

std::int32_t CompositePlugin::configurePlugin(const DynamicPluginTensorDesc* in, std::int32_t inputs,
                                              const DynamicPluginTensorDesc*, std::int32_t outputs) noexcept {
    if (!expect_counts(inputs, outputs)) return kFailed;
    for (const nvinfer1::Dims DynamicPluginTensorDesc::* bound :
         {&DynamicPluginTensorDesc::min, &DynamicPluginTensorDesc::max}) {
        if (!check(shapes_of([in, bound](int input) { return in[input].*bound; }), settings_.margin)) return kFailed;
    }
    return kDone;
}

std::size_t CompositePlugin::getWorkspaceSize(const DynamicPluginTensorDesc* in, std::int32_t,
                                              const DynamicPluginTensorDesc*, std::int32_t) const noexcept {
    const Shapes shapes = shapes_of([in](int input) { return in[input].max; });
    const int count = shapes.count(), height = shapes.height(), width = shapes.width();
    // More than there is, so that building ends, where a bound is missing.
    if (count < 0 || height < 0 || width < 0) return std::numeric_limits<std::size_t>::max();
    return workspace_bytes(count, height, width);
}

std::int32_t CompositePlugin::onShapeChange(const PluginTensorDesc* in, std::int32_t inputs, const PluginTensorDesc*,
                                            std::int32_t outputs) noexcept {
    if (!expect_counts(inputs, outputs)) return kFailed;
    return check(shapes_of([in](int input) { return in[input].dims; }), settings_.margin) ? kDone : kFailed;
}

std::int32_t CompositePlugin::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*, const void* const* inputs,
                                      void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
    const Shapes shapes = shapes_of([in](int input) { return in[input].dims; });
    if (!check(shapes, settings_.margin)) return kFailed;
    Job job{};
    job.frames = shapes.count();
    job.height = shapes.height();
    job.width = shapes.width();
    job.pixel = real_of(in[kFrames].type);
    job.clear = inputs[kFrames];
    job.redacted = outputs[0];
    job.paint = real_of(in[kPatches].type);
    job.patches = inputs[kPatches];
    job.side = shapes.side();
    job.margin = settings_.margin;
    job.context = settings_.context;
    job.slots = {static_cast<const Box*>(inputs[kBoxes]), static_cast<const float*>(inputs[kScores]), shapes.slots(),
                 settings_.threshold, settings_.box_scale};
    job.workspace = workspace;
    const cudaError_t error = composite(job, stream);
    if (error == cudaSuccess) return kDone;
    report("DartBlurComposite: %s: build the plugin for this GPU and driver (CMAKE_CUDA_ARCHITECTURES)",
           cudaGetErrorString(error));
    return kFailed;
}

nvinfer1::IPluginV3* CompositePlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

const nvinfer1::PluginFieldCollection* CompositePlugin::getFieldsToSerialize() noexcept {
    fields_ = fields_of(&settings_);
    collection_ = {kFields, fields_.data()};
    return &collection_;
}

CompositeCreator::CompositeCreator() noexcept : fields_(fields_of(nullptr)), collection_{kFields, fields_.data()} {}

nvinfer1::IPluginV3* CompositeCreator::createPlugin(const char*, const nvinfer1::PluginFieldCollection* fields,
                                                    nvinfer1::TensorRTPhase) noexcept {
    Settings settings{};
    return read_fields(fields, settings) ? new (std::nothrow) CompositePlugin(settings) : nullptr;
}

}  // namespace dartblur::trt
