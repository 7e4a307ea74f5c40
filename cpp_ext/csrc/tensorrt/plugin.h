// DartBlurComposite: frames with each patch laid over its box.
#pragma once

#include <NvInferRuntime.h>

#include "settings.h"

namespace dartblur::trt {

constexpr const char* kName = "DartBlurComposite";
constexpr const char* kVersion = "1";
constexpr const char* kNamespace = "dartblur";

// Inputs: frames [N, H, W, 3] grey levels, patches [N, S, 3, P, P] 0..1, boxes [N, S, 4] and scores [N, S]; the last
// two in single precision, the others in single or half. Output: the redacted frames, like the first input.
class CompositePlugin final : public nvinfer1::IPluginV3,
                              public nvinfer1::IPluginV3OneCore,
                              public nvinfer1::IPluginV3OneBuild,
                              public nvinfer1::IPluginV3OneRuntime {
  public:
    explicit CompositePlugin(const Settings& settings) noexcept : settings_(settings) {}

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    const char* getPluginName() const noexcept override { return kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

    std::int32_t getNbOutputs() const noexcept override;
    std::int32_t getOutputDataTypes(nvinfer1::DataType* output_types, std::int32_t outputs,
                                    const nvinfer1::DataType* input_types, std::int32_t inputs) const noexcept override;
    std::int32_t getOutputShapes(const nvinfer1::DimsExprs* in, std::int32_t inputs,
                                 const nvinfer1::DimsExprs* shape_in, std::int32_t shape_inputs, nvinfer1::DimsExprs* out, std::int32_t outputs,
                                 nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(std::int32_t pos, const nvinfer1::DynamicPluginTensorDesc* in_out,
                                   std::int32_t inputs, std::int32_t outputs) noexcept override;
    std::int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, std::int32_t inputs,
                                 const nvinfer1::DynamicPluginTensorDesc* out, std::int32_t outputs) noexcept override;
    std::size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, std::int32_t inputs,
                                 const nvinfer1::DynamicPluginTensorDesc* out,
                                 std::int32_t outputs) const noexcept override;

    std::int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, std::int32_t inputs,
                               const nvinfer1::PluginTensorDesc* out, std::int32_t outputs) noexcept override;
    std::int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                         const void* const* inputs, void* const* outputs, void* workspace,
                         cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

  private:
    Settings settings_;
    Fields fields_{};
    nvinfer1::PluginFieldCollection collection_{};
};

class CompositeCreator final : public nvinfer1::IPluginCreatorV3One {
  public:
    CompositeCreator() noexcept;

    nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fields,
                                      nvinfer1::TensorRTPhase phase) noexcept override;
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
    const char* getPluginName() const noexcept override { return kName; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

  private:
    Fields fields_;
    nvinfer1::PluginFieldCollection collection_;
};

}  // namespace dartblur::trt
