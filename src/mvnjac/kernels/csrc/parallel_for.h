// Work divided among threads that live only as long as it takes.
//
// No pool is kept, so a process can fork at any time and no pool of another library is in the way; a call that is worth dividing
// takes many times what starting a thread costs. Calls that run at the same time share the cores: none starts more threads than
// are left.
#pragma once
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "kernel_table.h"

namespace mvnjac {

inline std::atomic<int> helpers_at_work{0};

// work(part) for each of `parts` parts, on at most `threads` threads.
template <class Work> void divide(index parts, int threads, const Work &work) {
    static const int cores = static_cast<int>(std::thread::hardware_concurrency());
    if (parts <= 1 || threads <= 1) {
        for (index part = 0; part < parts; part++) work(part);
        return;
    }
    int wanted = static_cast<int>(parts < threads ? parts : threads) - 1;
    if (wanted > cores - 1) wanted = cores - 1;
    int granted = 0;
    if (wanted > 0) {
        const int before = helpers_at_work.fetch_add(wanted);
        granted = before + wanted <= cores - 1 ? wanted : (cores - 1 > before ? cores - 1 - before : 0);
        helpers_at_work.fetch_sub(wanted - granted);
    }
    std::atomic<index> next{0};
    const auto serve = [&] {
        for (index part = next++; part < parts; part = next++) work(part);
    };
    std::vector<std::thread> helpers;
    try {
        for (int i = 0; i < granted; i++) helpers.emplace_back(serve);
    } catch (const std::system_error &) {  // no thread to be had: those that there are do the work
    }
    serve();
    for (auto &helper : helpers) helper.join();
    helpers_at_work.fetch_sub(granted);
}

}  // namespace mvnjac
