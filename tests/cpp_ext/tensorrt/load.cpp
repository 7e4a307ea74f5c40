// A program that loads a plugin library and calls nothing: load LIBRARY. Its TensorRT has no registry, and says so.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdio>

static int asked = 0;

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginRegistry* getPluginRegistry() noexcept {
    ++asked;
    return nullptr;
}

int main(int, char** arguments) {
    if (!dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL)) std::fprintf(stderr, "%s\n", dlerror());
    std::printf("asked %d times\n", asked);
}
