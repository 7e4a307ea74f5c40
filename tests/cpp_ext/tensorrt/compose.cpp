// Has the plugin do its work: compose LIBRARY < scene > frames. With DARTBLUR_GPU on a GPU, else in host memory.
//
// A scene: int32 N, H, W, S, P, margin, whether frames and whether patches are in half precision; float32 threshold,
// box scale and context; then frames, patches, boxes and scores. Ends with 1 and the plugin's words where the plugin fails.
#include <iostream>
#include <iterator>
#include <memory>

#include "plugin_library.h"

#ifdef DARTBLUR_GPU
#include <cuda_runtime_api.h>
#endif

using namespace nvinfer1;

namespace {

// Memory that the plugin can reach. On the host it is of the very size, so that sanitizers see a step too far.
class Memory {
  public:
    explicit Memory(std::size_t size, const char* content = nullptr) : size_(size) {
#ifdef DARTBLUR_GPU
        if (cudaMalloc(&data_, size ? size : 1) != cudaSuccess) std::exit(2);
        if (content && cudaMemcpy(data_, content, size, cudaMemcpyHostToDevice) != cudaSuccess) std::exit(2);
#else
        data_ = std::malloc(size);
        if (content) std::memcpy(data_, content, size);
#endif
    }
    Memory(const Memory&) = delete;
    ~Memory() {
#ifdef DARTBLUR_GPU
        cudaFree(data_);
#else
        std::free(data_);
#endif
    }
    void* get() const { return data_; }
    std::vector<char> read() const {
        std::vector<char> content(size_);
#ifdef DARTBLUR_GPU
        if (cudaMemcpy(content.data(), data_, size_, cudaMemcpyDeviceToHost) != cudaSuccess) std::exit(2);
#else
        std::memcpy(content.data(), data_, size_);
#endif
        return content;
    }

  private:
    void* data_ = nullptr;
    std::size_t size_;
};

struct Header {
    std::int32_t frames, height, width, slots, side, margin, half_frames, half_patches;
    float threshold, box_scale, context;
};

DataType type_of(std::int32_t half) { return half ? DataType::kHALF : DataType::kFLOAT; }

std::size_t bytes_of(const PluginTensorDesc& tensor) {
    std::size_t bytes = tensor.type == DataType::kHALF ? 2 : 4;
    for (int i = 0; i < tensor.dims.nbDims; ++i) bytes *= static_cast<std::size_t>(tensor.dims.d[i]);
    return bytes;
}

}  // namespace

int main(int, char** arguments) {
    const Library library(arguments[1]);
    Finder finder;
    library.tell(finder);
    const std::vector<char> scene(std::istreambuf_iterator<char>(std::cin), {});
    Header header;
    std::memcpy(&header, scene.data(), sizeof header);
    Node node;
    node.threshold = header.threshold;
    node.box_scale = header.box_scale;
    node.context = header.context;
    node.margin = header.margin;
    const PluginFieldCollection fields = node.collection();
    const std::unique_ptr<IPluginV3> plugin(library.creator().createPlugin("node", &fields, TensorRTPhase::kRUNTIME));

    const int n = header.frames, slots = header.slots, side = header.side;
    const PluginTensorDesc in[] = {
        tensor({n, header.height, header.width, 3}, type_of(header.half_frames)),
        tensor({n, slots, 3, side, side}, type_of(header.half_patches)),
        tensor({n, slots, 4}),
        tensor({n, slots}),
    };
    const PluginTensorDesc out = in[0];
    std::vector<std::unique_ptr<Memory>> memory;
    const void* inputs[4];
    const char* content = scene.data() + sizeof header;
    for (int i = 0; i < 4; content += bytes_of(in[i]), ++i) {
        memory.push_back(std::make_unique<Memory>(bytes_of(in[i]), content));
        inputs[i] = memory.back()->get();
    }
    DynamicPluginTensorDesc bounds[4]{};
    for (int i = 0; i < 4; ++i) bounds[i] = {in[i], in[i].dims, in[i].dims, in[i].dims};
    const Memory redacted(bytes_of(out));
    const Memory workspace(plugin ? build_of(*plugin).getWorkspaceSize(bounds, 4, bounds, 1) : 0);
    void* outputs[] = {redacted.get()};
    if (!plugin || runtime_of(*plugin).onShapeChange(in, 4, &out, 1) != 0 ||
        runtime_of(*plugin).enqueue(in, &out, inputs, outputs, workspace.get(), nullptr) != 0) {
        std::fprintf(stderr, "%s\n", finder.logger.take().c_str());
        return 1;
    }
    const std::vector<char> pixels = redacted.read();
    std::cout.write(pixels.data(), static_cast<std::streamsize>(pixels.size()));
}
