// Takes the plugin through all that TensorRT does with it but its work: harness LIBRARY.
#include <functional>
#include <limits>
#include <memory>

#include "plugin_library.h"

using namespace nvinfer1;

namespace {

int failures = 0;

#define CHECK(condition)                                                              \
    do {                                                                              \
        if (!(condition)) {                                                           \
            std::fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            ++failures;                                                               \
        }                                                                             \
    } while (false)

using Plugin = std::unique_ptr<IPluginV3>;

Plugin create(IPluginCreatorV3One& creator, const PluginFieldCollection& fields, TensorRTPhase phase) {
    return Plugin(creator.createPlugin("node", &fields, phase));
}

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

bool is_kind(const InterfaceInfo& info, const char* kind, int major) {
    return std::strcmp(info.kind, kind) == 0 && info.major == major;
}

void check_creator(IPluginCreatorV3One& creator) {
    CHECK(is_kind(creator.getInterfaceInfo(), "PLUGIN CREATOR_V3ONE", 1));
    CHECK(std::string(creator.getPluginName()) == "DartBlurComposite");
    CHECK(std::string(creator.getPluginVersion()) == "1");
    CHECK(std::string(creator.getPluginNamespace()) == "dartblur");
    const PluginFieldCollection& names = *creator.getFieldNames();
    const Node node;
    CHECK(names.nbFields == static_cast<std::int32_t>(node.fields.size()));
    for (std::int32_t i = 0; i < names.nbFields; ++i) {
        CHECK(std::string(names.fields[i].name) == node.fields[i].name);
        CHECK(names.fields[i].type == node.fields[i].type);
    }
}

void check_wrong_fields(IPluginCreatorV3One& creator, Logger& logger) {
    const auto refused = [&](const char* reason, const std::function<void(Node&)>& spoil) {
        Node node;
        spoil(node);
        logger.take();
        const Plugin plugin = create(creator, node.collection(), TensorRTPhase::kBUILD);
        const std::string said = logger.take();
        if (plugin || !contains(said, reason)) {
            std::fprintf(stderr, "expected a refusal that says '%s', got '%s'\n", reason, said.c_str());
            ++failures;
        }
    };
    static const std::int64_t wide = 1LL << 40;
    static const float unknown = 0;
    refused("threshold: expected 0 to 1", [](Node& node) { node.threshold = 1.5f; });
    refused("threshold: expected 0 to 1", [](Node& node) { node.threshold = std::numeric_limits<float>::quiet_NaN(); });
    refused("box_scale: expected 1 to 4", [](Node& node) { node.box_scale = 0.5f; });
    refused("context: expected 1 to 100", [](Node& node) { node.context = 0; });
    refused("margin: expected 0 to 2047, got -1", [](Node& node) { node.margin = -1; });
    refused("margin: expected 0 to 2047, got 1099511627776",
            [](Node& node) { node.fields[3] = {"margin", &wide, PluginFieldType::kINT64, 1}; });
    refused("margin: expected one int32", [](Node& node) { node.fields[3].type = PluginFieldType::kFLOAT32; });
    refused("context: expected one float32", [](Node& node) { node.fields[2].length = 2; });
    refused("box_scale: expected one float32", [](Node& node) { node.fields[1].data = nullptr; });
    refused("box_scale is missing", [](Node& node) { node.fields.erase(node.fields.begin() + 1); });
    refused("threshold is missing", [](Node& node) { node.fields.clear(); });
    refused("margin: expected once", [](Node& node) { node.fields.push_back(node.fields[3]); });
    refused("got 5 fields",
            [](Node& node) { node.fields.emplace_back("gamma", &unknown, PluginFieldType::kFLOAT32, 1); });
    CHECK(creator.createPlugin("node", nullptr, TensorRTPhase::kBUILD) == nullptr);
}

// The values that the plugin stores, by name.
bool stores(IPluginV3& plugin, const Node& node) {
    const PluginFieldCollection& stored = *runtime_of(plugin).getFieldsToSerialize();
    if (stored.nbFields != static_cast<std::int32_t>(node.fields.size())) return false;
    for (std::int32_t i = 0; i < stored.nbFields; ++i) {
        const PluginField &is = stored.fields[i], &want = node.fields[i];
        if (std::strcmp(is.name, want.name) != 0 || is.type != want.type || is.length != 1) return false;
        if (std::memcmp(is.data, want.data, 4) != 0) return false;
    }
    return true;
}

void check_stored_and_cloned(IPluginCreatorV3One& creator) {
    auto node = std::make_unique<Node>();
    node->threshold = 0.125f;
    node->margin = 3;
    Plugin built = create(creator, node->collection(), TensorRTPhase::kBUILD);
    const Node expected_defaults;
    CHECK(built && !stores(*built, expected_defaults));
    CHECK(stores(*built, *node));
    Plugin loaded = create(creator, *runtime_of(*built).getFieldsToSerialize(), TensorRTPhase::kRUNTIME);
    CHECK(loaded && stores(*loaded, *node));
    Plugin copy(built->clone());
    Plugin attached(runtime_of(*loaded).attachToContext(nullptr));
    CHECK(copy.get() != built.get() && attached.get() != loaded.get());
    // Copies stand on their own.
    built.reset();
    loaded.reset();
    CHECK(copy && stores(*copy, *node));
    CHECK(attached && stores(*attached, *node));

    static const std::int64_t wide = 3;
    node->fields[3] = {"margin", &wide, PluginFieldType::kINT64, 1};
    const Plugin from_wide = create(creator, node->collection(), TensorRTPhase::kBUILD);
    node->fields[3] = {"margin", &node->margin, PluginFieldType::kINT32, 1};
    CHECK(from_wide && stores(*from_wide, *node));
}

void check_capabilities(IPluginV3& plugin) {
    using Core = IPluginV3OneCore;
    auto& core = capability<Core>(plugin, PluginCapabilityType::kCORE);
    CHECK(is_kind(plugin.getInterfaceInfo(), "PLUGIN", 1));
    CHECK(is_kind(core.getInterfaceInfo(), "PLUGIN_V3ONE_CORE", 1));
    CHECK(is_kind(build_of(plugin).getInterfaceInfo(), "PLUGIN_V3ONE_BUILD", 1));
    CHECK(is_kind(runtime_of(plugin).getInterfaceInfo(), "PLUGIN_V3ONE_RUNTIME", 1));
    CHECK(std::string(core.getPluginName()) == "DartBlurComposite");
    CHECK(std::string(core.getPluginVersion()) == "1");
    CHECK(std::string(core.getPluginNamespace()) == "dartblur");
    CHECK(build_of(plugin).getNbOutputs() == 1);
    CHECK(build_of(plugin).getNbTactics() == 0);
    CHECK(runtime_of(plugin).setTactic(0) == 0);
}

// All types and layouts at all places: one picture's type for both, patches of either, the rest in single precision.
void check_formats(IPluginV3& plugin) {
    const DataType types[] = {DataType::kFLOAT, DataType::kHALF, DataType::kINT8,  DataType::kINT32,
                              DataType::kBOOL,  DataType::kUINT8, DataType::kBF16, DataType::kINT64};
    const auto real = [](DataType type) { return type == DataType::kFLOAT || type == DataType::kHALF; };
    for (const DataType picture : {DataType::kFLOAT, DataType::kHALF}) {
        for (int pos = 0; pos < 5; ++pos) {
            for (const DataType type : types) {
                for (const TensorFormat format : {TensorFormat::kLINEAR, TensorFormat::kCHW32, TensorFormat::kHWC8}) {
                    // What lies behind `pos` has no meaning.
                    DynamicPluginTensorDesc all[5];
                    for (auto& tensor : all) tensor.desc = {dims({}), DataType::kINT64, TensorFormat::kCHW4, 0};
                    for (int i = 0; i < pos; ++i) {
                        all[i].desc.type = i == 0 ? picture : DataType::kFLOAT;
                        all[i].desc.format = TensorFormat::kLINEAR;
                    }
                    all[pos].desc.type = type;
                    all[pos].desc.format = format;
                    const bool fits = pos <= 1 ? real(type) : pos == 4 ? type == picture : type == DataType::kFLOAT;
                    CHECK(build_of(plugin).supportsFormatCombination(pos, all, 4, 1) ==
                          (fits && format == TensorFormat::kLINEAR));
                }
            }
        }
    }
    DynamicPluginTensorDesc all[6]{};
    CHECK(!build_of(plugin).supportsFormatCombination(0, all, 3, 1));
    CHECK(!build_of(plugin).supportsFormatCombination(0, all, 4, 2));
    CHECK(!build_of(plugin).supportsFormatCombination(5, all, 4, 1));
    CHECK(!build_of(plugin).supportsFormatCombination(-1, all, 4, 1));

    for (const DataType picture : {DataType::kFLOAT, DataType::kHALF}) {
        const DataType in[] = {picture, DataType::kHALF, DataType::kFLOAT, DataType::kFLOAT};
        DataType out = DataType::kBOOL;
        CHECK(build_of(plugin).getOutputDataTypes(&out, 1, in, 4) == 0 && out == picture);
    }
    const DataType bytes[] = {DataType::kUINT8, DataType::kFLOAT, DataType::kFLOAT, DataType::kFLOAT};
    DataType out = DataType::kBOOL;
    CHECK(build_of(plugin).getOutputDataTypes(&out, 1, bytes, 4) != 0);
}

// A size that is a number, or one that is not known (-1).
struct Size : IDimensionExpr, apiv::VDimensionExpr {
    explicit Size(std::int64_t value) : value(value) { mImpl = this; }
    bool isConstant() const override { return value >= 0; }
    std::int64_t getConstantValue() const override { return value; }
    bool isSizeTensor() const override { return false; }
    std::int64_t value;
};

// The output's shape is its input's, so that nothing is to be built.
struct Builder : IExprBuilder, apiv::VExprBuilder {
    Builder() { mImpl = this; }
    const IDimensionExpr* constant(std::int64_t) override { return count(); }
    const IDimensionExpr* operation(DimensionOperation, const IDimensionExpr&, const IDimensionExpr&) override {
        return count();
    }
    const IDimensionExpr* declareSizeTensor(std::int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
        return count();
    }
    const IDimensionExpr* count() {
        ++built;
        return nullptr;
    }
    int built = 0;
};

struct Expressions {
    explicit Expressions(const std::vector<std::vector<int>>& shapes) : dims(shapes.size()) {
        for (std::size_t i = 0; i < shapes.size(); ++i) {
            dims[i].nbDims = static_cast<std::int32_t>(shapes[i].size());
            for (std::size_t axis = 0; axis < shapes[i].size(); ++axis) {
                sizes.push_back(std::make_unique<Size>(shapes[i][axis]));
                dims[i].d[axis] = sizes.back().get();
            }
        }
    }
    std::vector<std::unique_ptr<Size>> sizes;
    std::vector<DimsExprs> dims;
};

using ShapeList = std::vector<std::vector<int>>;
const ShapeList kGood{{2, 72, 128, 3}, {2, 6, 3, 64, 64}, {2, 6, 4}, {2, 6}};
const ShapeList kFree{{-1, -1, -1, 3}, {-1, 6, 3, 64, 64}, {-1, 6, 4}, {-1, 6}};

struct Wrong {
    const char* reason;
    ShapeList shapes;
};
const Wrong kWrong[] = {
    {"frames: expected [-1, -1, -1, 3]", {{2, 3, 72, 128}, {2, 6, 3, 64, 64}, {2, 6, 4}, {2, 6}}},
    {"frames: expected [-1, -1, -1, 3]", {{72, 128, 3}, {2, 6, 3, 64, 64}, {2, 6, 4}, {2, 6}}},
    {"patches: expected [2, -1, 3, -1, -1]", {{2, 72, 128, 3}, {3, 6, 3, 64, 64}, {2, 6, 4}, {2, 6}}},
    {"patches: expected [-1, -1, -1, 32, 64]", {{2, 72, 128, 3}, {2, 6, 3, 64, 32}, {2, 6, 4}, {2, 6}}},
    {"boxes: expected [2, 6, 4] (-1: any), got [2, 5, 4]", {{2, 72, 128, 3}, {2, 6, 3, 64, 64}, {2, 5, 4}, {2, 6}}},
    {"scores: expected [2, 6] (-1: any), got [2, 7]", {{2, 72, 128, 3}, {2, 6, 3, 64, 64}, {2, 6, 4}, {2, 7}}},
    {"scores: expected [2, 6] (-1: any), got [2, 6, 1]", {{2, 72, 128, 3}, {2, 6, 3, 64, 64}, {2, 6, 4}, {2, 6, 1}}},
    {"a margin of 12 leaves no face in 24 pixels", {{2, 72, 128, 3}, {2, 6, 3, 24, 24}, {2, 6, 4}, {2, 6}}},
    {"slots: expected at most 4096", {{2, 72, 128, 3}, {2, 5000, 3, 64, 64}, {2, 5000, 4}, {2, 5000}}},
};

std::int32_t output_shapes(IPluginV3& plugin, const ShapeList& shapes) {
    const Expressions in(shapes);
    Builder builder;
    DimsExprs out{};
    const std::int32_t failed = build_of(plugin).getOutputShapes(
        in.dims.data(), static_cast<std::int32_t>(in.dims.size()), nullptr, 0, &out, 1, builder);
    CHECK(builder.built == 0);
    if (!failed) {
        CHECK(out.nbDims == 4);
        for (int axis = 0; axis < 4; ++axis) CHECK(out.d[axis] == in.dims[0].d[axis]);
    }
    return failed;
}

std::int32_t configure(IPluginV3& plugin, const ShapeList& shapes) {
    std::vector<DynamicPluginTensorDesc> in(shapes.size());
    for (std::size_t i = 0; i < shapes.size(); ++i) {
        Dims size{static_cast<std::int32_t>(shapes[i].size()), {}};
        std::copy(shapes[i].begin(), shapes[i].end(), size.d);
        in[i].desc = {size, DataType::kFLOAT, TensorFormat::kLINEAR, 1.0f};
        in[i].min = in[i].max = in[i].opt = size;
    }
    DynamicPluginTensorDesc out = in[0];
    const auto count = static_cast<std::int32_t>(in.size());
    const std::int32_t failed = build_of(plugin).configurePlugin(in.data(), count, &out, 1);
    if (!failed) CHECK(build_of(plugin).getWorkspaceSize(in.data(), count, &out, 1) == 2u * 72 * 128 * 3);
    return failed;
}

std::int32_t change_shape(IPluginV3& plugin, const ShapeList& shapes) {
    std::vector<PluginTensorDesc> in(shapes.size());
    for (std::size_t i = 0; i < shapes.size(); ++i) {
        in[i].dims.nbDims = static_cast<std::int32_t>(shapes[i].size());
        std::copy(shapes[i].begin(), shapes[i].end(), in[i].dims.d);
    }
    const PluginTensorDesc out = in[0];
    return runtime_of(plugin).onShapeChange(in.data(), static_cast<std::int32_t>(in.size()), &out, 1);
}

void check_shapes(IPluginV3& plugin, Logger& logger) {
    CHECK(output_shapes(plugin, kGood) == 0);
    CHECK(output_shapes(plugin, kFree) == 0);
    CHECK(configure(plugin, kGood) == 0);
    CHECK(change_shape(plugin, kGood) == 0);
    const auto refuses = [&](const Wrong& wrong, std::int32_t (*ask)(IPluginV3&, const ShapeList&)) {
        logger.take();
        const std::int32_t failed = ask(plugin, wrong.shapes);
        const std::string said = logger.take();
        if (!failed || !contains(said, wrong.reason)) {
            std::fprintf(stderr, "expected a refusal that says '%s', got %d '%s'\n", wrong.reason, failed,
                         said.c_str());
            ++failures;
        }
    };
    for (const Wrong& wrong : kWrong) {
        refuses(wrong, output_shapes);
        refuses(wrong, configure);
        refuses(wrong, change_shape);
    }
    ShapeList few = kGood;
    few.pop_back();
    CHECK(output_shapes(plugin, few) != 0);
    CHECK(change_shape(plugin, few) != 0);

    // Where a bound is missing, no memory would be enough.
    DynamicPluginTensorDesc in[4]{};
    in[0].max = dims({-1, -1, 128, 3});
    in[1].max = dims({-1, 6, 3, 64, 64});
    CHECK(build_of(plugin).getWorkspaceSize(in, 4, in, 1) == std::numeric_limits<std::size_t>::max());
}

}  // namespace

int main(int, char** arguments) {
    const Library library(arguments[1]);
    IPluginCreatorV3One& creator = library.creator();
    Finder finder;
    library.tell(finder);
    check_creator(creator);
    check_wrong_fields(creator, finder.logger);
    check_stored_and_cloned(creator);
    const Node node;
    const Plugin plugin = create(creator, node.collection(), TensorRTPhase::kBUILD);
    CHECK(plugin);
    if (plugin) {
        check_capabilities(*plugin);
        check_formats(*plugin);
        check_shapes(*plugin, finder.logger);
    }
    std::printf("%d failures\n", failures);
    return failures ? 1 : 0;
}
