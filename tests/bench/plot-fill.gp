# SPDX-License-Identifier: MIT
# usage: gnuplot -e "csv='fill-raw.csv'; svg='fill-plot.svg'" plot-fill.gp
# How many faults were served within so long, with the fill off and on, by source.
set terminal svg size 1000,700 font "sans,12"
set output svg
set datafile separator ","
set multiplot layout 2,2 title "a page at random, 4 KiB pages: part of the faults that took at most so long"
set xlabel "microseconds"
set logscale x
set yrange [0:1]
set grid
set key bottom right noenhanced
do for [source in "file-hot file-cold nbd nbd-1ms"] {
        set title source noenhanced
        array number[2]
        do for [k=1:2] {
                number[k] = system(sprintf("grep -c '^%s,4K,%s,' %s || true", source, word("fault-quiet fault-filling", k), csv)) + 0.0
        }
        plot for [k=1:2] csv using ((strcol(1) eq source && strcol(2) eq "4K" && strcol(3) eq word("fault-quiet fault-filling", k)) \
                ? $4 / 1000 : NaN):(1 / number[k]) smooth cumulative with lines linewidth 2 title word("quiet filling", k)
}
unset multiplot
