// A parallel loop with threads that are started for each call.
//
// There is no thread pool, so that a process can fork at any time and other libraries' pools do not interfere; a call that is large
// enough to be divided takes much longer than starting threads. Concurrent calls share the cores: each starts at most as many threads
// as there are idle cores.
#pragma once
#include <atomic>
#include <system_error>
#include <thread>
#include <vector>

#include "kernel_table.h"

namespace mvnjac {

inline std::atomic<int> active_threads{0};

// Calls work(part) for each of `parts` parts, on at most `threads` threads.
template <class Work> void parallel_for(index parts, int threads, const Work &work) {
    static const int cores = static_cast<int>(std::thread::hardware_concurrency());
    if (parts <= 1 || threads <= 1) {
        for (index part = 0; part < parts; part++) work(part);
        return;
    }
    int wanted = static_cast<int>(parts < threads ? parts : threads) - 1;
    if (wanted > cores - 1) wanted = cores - 1;
    int granted = 0;
    if (wanted > 0) {
        const int before = active_threads.fetch_add(wanted);
        granted = before + wanted <= cores - 1 ? wanted : (cores - 1 > before ? cores - 1 - before : 0);
        active_threads.fetch_sub(wanted - granted);
    }
    std::atomic<index> next{0};
    const auto run_parts = [&] {
        for (index part = next++; part < parts; part = next++) work(part);
    };
    std::vector<std::thread> threads_started;
    try {
        for (int i = 0; i < granted; i++) threads_started.emplace_back(run_parts);
    } catch (const std::system_error &) {  // a thread could not be started: the existing ones do the work
    }
    run_parts();
    for (auto &helper : threads_started) helper.join();
    active_threads.fetch_sub(granted);
}

}  // namespace mvnjac
