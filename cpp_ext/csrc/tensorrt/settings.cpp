#include "settings.h"

#include <cstring>
#include <iterator>

#include "report.h"

namespace dartblur::trt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

struct RealField {
    const char* name;
    float Settings::* value;
    float low, high;
};

constexpr RealField kReals[] = {
    {"threshold", &Settings::threshold, 0.0f, 1.0f},
    {"box_scale", &Settings::box_scale, 1.0f, 4.0f},
    {"context", &Settings::context, 1.0f, 100.0f},
};
constexpr const char* kMargin = "margin";
constexpr int kLargestMargin = 2047;
static_assert(std::size(kReals) + 1 == kFields);

const PluginField* find(const nvinfer1::PluginFieldCollection& given, const char* name) noexcept {
    const PluginField* found = nullptr;
    for (int i = 0; i < given.nbFields; ++i) {
        const PluginField& field = given.fields[i];
        if (!field.name || std::strcmp(field.name, name) != 0) continue;
        if (found) {
            report("DartBlurComposite: field %s: expected once, got it twice: give each field once", name);
            return nullptr;
        }
        found = &field;
    }
    if (!found) report("DartBlurComposite: field %s is missing: export the graph again, or add it to the fields", name);
    return found;
}

bool is_one(const PluginField& field, const char* type, bool of_type) noexcept {
    if (of_type && field.length == 1 && field.data) return true;
    report("DartBlurComposite: field %s: expected one %s, got type %d with %d values%s: export the graph again",
           field.name, type, static_cast<int>(field.type), field.length, field.data ? "" : " and no data");
    return false;
}

bool read_real(const nvinfer1::PluginFieldCollection& given, const RealField& real, Settings& settings) noexcept {
    const PluginField* field = find(given, real.name);
    if (!field || !is_one(*field, "float32", field->type == PluginFieldType::kFLOAT32)) return false;
    float value;
    std::memcpy(&value, field->data, sizeof value);
    // Written so that NaN is refused.
    if (!(value >= real.low && value <= real.high)) {
        report("DartBlurComposite: field %s: expected %g to %g, got %g: export the graph again", real.name, real.low,
               real.high, value);
        return false;
    }
    settings.*real.value = value;
    return true;
}

// Parsers of ONNX hand over whole numbers with 32 or with 64 bits.
bool read_margin(const nvinfer1::PluginFieldCollection& given, Settings& settings) noexcept {
    const PluginField* field = find(given, kMargin);
    if (!field) return false;
    const bool wide = field->type == PluginFieldType::kINT64;
    if (!is_one(*field, "int32 or int64", wide || field->type == PluginFieldType::kINT32)) return false;
    std::int64_t value = 0;
    if (wide) {
        std::memcpy(&value, field->data, sizeof value);
    } else {
        std::int32_t narrow;
        std::memcpy(&narrow, field->data, sizeof narrow);
        value = narrow;
    }
    if (value < 0 || value > kLargestMargin) {
        report("DartBlurComposite: field %s: expected 0 to %d, got %lld: export the graph again", kMargin,
               kLargestMargin, static_cast<long long>(value));
        return false;
    }
    settings.margin = static_cast<std::int32_t>(value);
    return true;
}

}  // namespace

Fields fields_of(const Settings* settings) noexcept {
    Fields fields{};
    int count = 0;
    for (const RealField& real : kReals) {
        fields[count++] = {real.name, settings ? &(settings->*real.value) : nullptr, PluginFieldType::kFLOAT32, 1};
    }
    fields[count] = {kMargin, settings ? &settings->margin : nullptr, PluginFieldType::kINT32, 1};
    return fields;
}

bool read_fields(const nvinfer1::PluginFieldCollection* given, Settings& settings) noexcept {
    if (!given || given->nbFields < 0 || (given->nbFields > 0 && !given->fields)) {
        report("DartBlurComposite: expected %d fields, got none: export the graph again", kFields);
        return false;
    }
    for (const RealField& real : kReals) {
        if (!read_real(*given, real, settings)) return false;
    }
    if (!read_margin(*given, settings)) return false;
    // All were found, each once, so any more are unknown ones.
    if (given->nbFields != kFields) {
        report("DartBlurComposite: expected the %d fields threshold, box_scale, context and margin, got %d fields: "
               "leave the others out", kFields, given->nbFields);
        return false;
    }
    return true;
}

}  // namespace dartblur::trt
