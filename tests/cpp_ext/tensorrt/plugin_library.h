// The plugin library as TensorRT would load it: by the names of its two entry points.
#pragma once

#include <NvInferRuntime.h>
#include <dlfcn.h>


#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

struct Logger : nvinfer1::ILogger {
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kERROR) last = message;
    }
    // What was said since it was last asked for.
    std::string take() {
        std::string said = last;
        last.clear();
        return said;
    }
    std::string last;
};

struct Finder : nvinfer1::ILoggerFinder {
    nvinfer1::ILogger* findLogger() override { return &logger; }
    Logger logger;
};

struct Library {
    explicit Library(const char* path) : handle(dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
        if (!handle) {
            std::fprintf(stderr, "%s\n", dlerror());
            std::exit(2);
        }
    }

    template <class Function>
    Function entry(const char* name) const {
        return reinterpret_cast<Function>(dlsym(handle, name));
    }

    void tell(Finder& finder) const { entry<void (*)(nvinfer1::ILoggerFinder*)>("setLoggerFinder")(&finder); }

    nvinfer1::IPluginCreatorV3One& creator() const {
        using Entry = nvinfer1::IPluginCreatorInterface* const* (*)(std::int32_t&);
        std::int32_t count = 0;
        nvinfer1::IPluginCreatorInterface* const* creators = entry<Entry>("getCreators")(count);
        if (count != 1) {
            std::fprintf(stderr, "expected one creator, got %d\n", count);
            std::exit(2);
        }
        return *static_cast<nvinfer1::IPluginCreatorV3One*>(creators[0]);
    }

    void* handle;
};

// The fields of a node, as the parser of ONNX files makes them of its attributes.
struct Node {
    float threshold = 0.4f, box_scale = 1.25f, context = 1.6f;
    std::int32_t margin = 12;
    std::vector<nvinfer1::PluginField> fields{
        {"threshold", &threshold, nvinfer1::PluginFieldType::kFLOAT32, 1},
        {"box_scale", &box_scale, nvinfer1::PluginFieldType::kFLOAT32, 1},
        {"context", &context, nvinfer1::PluginFieldType::kFLOAT32, 1},
        {"margin", &margin, nvinfer1::PluginFieldType::kINT32, 1},
    };

    Node() = default;
    Node(const Node&) = delete;

    nvinfer1::PluginFieldCollection collection() const {
        return {static_cast<std::int32_t>(fields.size()), fields.data()};
    }
};

template <class Capability>
Capability& capability(nvinfer1::IPluginV3& plugin, nvinfer1::PluginCapabilityType type) {
    return *static_cast<Capability*>(plugin.getCapabilityInterface(type));
}

inline nvinfer1::IPluginV3OneBuild& build_of(nvinfer1::IPluginV3& plugin) {
    return capability<nvinfer1::IPluginV3OneBuild>(plugin, nvinfer1::PluginCapabilityType::kBUILD);
}

inline nvinfer1::IPluginV3OneRuntime& runtime_of(nvinfer1::IPluginV3& plugin) {
    return capability<nvinfer1::IPluginV3OneRuntime>(plugin, nvinfer1::PluginCapabilityType::kRUNTIME);
}

inline nvinfer1::Dims dims(std::initializer_list<int> sizes) {
    nvinfer1::Dims made{static_cast<std::int32_t>(sizes.size()), {}};
    std::copy(sizes.begin(), sizes.end(), made.d);
    return made;
}

inline nvinfer1::PluginTensorDesc tensor(std::initializer_list<int> sizes,
                                         nvinfer1::DataType type = nvinfer1::DataType::kFLOAT) {
    nvinfer1::PluginTensorDesc desc{};
    desc.dims = dims(sizes);
    desc.type = type;
    desc.format = nvinfer1::TensorFormat::kLINEAR;
    desc.scale = 1.0f;
    return desc;
}
